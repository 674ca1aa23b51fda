/* The server that the benchmarks ask: quick, or slow by a script, and it knows the truth.
 *
 * Unscripted it answers every request at once: one core of it serves several times what a client's
 * core can ask for, so that what is timed is the client. Scripted it answers each request so long
 * after its arrival: `POST /-/begin` empties the log and may set the script by its JSON body, the
 * same as truth_server.py's: kind "constant" (median_s), "log-normal" (median_s, sigma, seed) or
 * "stall" (answers at once, but not at all during the first stall_s of every every_s; the first
 * period begins in its middle).
 *
 * For each request it keeps two moments, which `GET /-/log` gives as two int64 (ns) each: when its
 * last byte came in by the kernel's stamp, which no queue of this process can delay (on loopback it
 * is taken within the sender's own system call), and just before its answer was written.
 *
 * Not a web server: the first request on a connection says by Content-Length how long all others on
 * it are. One argument, `--stamps`: keep the log (socket(7), SO_TIMESTAMPNS). Prints its port.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define LONGEST_REQUEST 16384
#define MOST_CONNECTIONS 2048
#define MOST_LOGGED (4 << 20)
#define MOST_WAITING (64 << 10)
#define SPIN_NS 60000 /* a sleeping core wakes some 50 us late: polled so long before an answer */
#define BODY                                                                                  \
    "{\"model_name\":\"null\",\"model_version\":\"1\",\"id\":\"0\",\"outputs\":[{\"name\":"   \
    "\"output-1\",\"shape\":[1,1],\"datatype\":\"FP64\",\"data\":[0.5]}]}"

struct connection {
    int fd, waiting; /* fd -1: closed, and freed with the last answer that waits for it */
    size_t got, expected; /* expected: 0 until the first request told its length */
    char data[LONGEST_REQUEST + 1];
};
struct moment {
    int64_t arrived, answered;
};
struct answer_due {
    int64_t due, arrived;
    struct connection *to;
};
enum kind { AT_ONCE, CONSTANT, LOG_NORMAL, STALL };

static struct moment *logged;
static size_t logged_n;
static int stamps;
static char answer[512];
static size_t answer_length;

static enum kind kind;
static double median_ns, sigma, stall_ns, every_ns;
static uint64_t seed;
static int64_t begun;
static struct answer_due heap[MOST_WAITING]; /* the earliest first */
static size_t heap_n;

static int64_t realtime_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* The number that follows `"name":` in a JSON text, or `otherwise`. */
static double number_in(const char *json, const char *name, double otherwise) {
    char key[32];
    snprintf(key, sizeof key, "\"%s\":", name);
    const char *found = strstr(json, key);
    return found ? strtod(found + strlen(key), NULL) : otherwise;
}

static void begin(const char *json) {
    kind = strstr(json, "\"constant\"")     ? CONSTANT
           : strstr(json, "\"log-normal\"") ? LOG_NORMAL
           : strstr(json, "\"stall\"")      ? STALL
                                            : AT_ONCE;
    median_ns = number_in(json, "median_s", 0) * 1e9;
    sigma = number_in(json, "sigma", 0.5);
    stall_ns = number_in(json, "stall_s", 0.2) * 1e9;
    every_ns = number_in(json, "every_s", 2.0) * 1e9;
    seed = 0x9e3779b97f4a7c15u * (uint64_t)(number_in(json, "seed", 1) + 1);
    begun = 0;
    logged_n = 0;
}

/* Between 0 and 1, neither included (xorshift64*). */
static double uniform(void) {
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return ((seed * 0x2545f4914f6cdd1du >> 11) + 0.5) / 9007199254740992.0;
}

/* When a request that arrived then is to be answered. */
static int64_t due_of(int64_t arrived) {
    if (kind == CONSTANT)
        return arrived + (int64_t)median_ns;
    if (kind == LOG_NORMAL) /* Box and Muller */
        return arrived + (int64_t)(median_ns * exp(sigma * sqrt(-2 * log(uniform())) *
                                                   cos(2 * M_PI * uniform())));
    if (kind == STALL) {
        if (!begun) /* half a period in: no tool's first requests meet a stall */
            begun = arrived - (int64_t)(every_ns / 2);
        double into = fmod(arrived - begun, every_ns);
        return into < stall_ns ? arrived + (int64_t)(stall_ns - into) : arrived;
    }
    return arrived;
}

static void push(struct answer_due one) {
    if (heap_n == MOST_WAITING) {
        fputs("too many requests at once\n", stderr);
        exit(1);
    }
    size_t at = heap_n++;
    for (; at && heap[(at - 1) / 2].due > one.due; at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = one;
}

static struct answer_due pop(void) {
    struct answer_due first = heap[0], last = heap[--heap_n];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < heap_n; at = child) {
        if (child + 1 < heap_n && heap[child + 1].due < heap[child].due)
            child++;
        if (heap[child].due >= last.due)
            break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return first;
}

/* As read(2); the kernel's stamp of the last byte, or 0, in *arrived. */
static ssize_t receive(struct connection *from, int64_t *arrived) {
    char *to = from->data + from->got;
    size_t room = LONGEST_REQUEST - from->got;
    if (!stamps)
        return read(from->fd, to, room);
    char control[128];
    struct iovec piece = {to, room};
    struct msghdr message = {.msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    ssize_t n = recvmsg(from->fd, &message, 0);
    if (n <= 0)
        return n;
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    for (; head; head = CMSG_NXTHDR(&message, head))
        if (head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec at;
            memcpy(&at, CMSG_DATA(head), sizeof at);
            *arrived = at.tv_sec * 1000000000LL + at.tv_nsec;
        }
    return n;
}

static int write_all(int fd, const char *data, size_t length) {
    while (length) {
        ssize_t n = write(fd, data, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        data += n;
        length -= n;
    }
    return 0;
}

/* Length of the request that begins the connection's data; 0: its head is not whole yet. */
static size_t length_of(struct connection *from) {
    from->data[from->got] = 0;
    char *end = strstr(from->data, "\r\n\r\n");
    if (!end)
        return 0;
    size_t length = end + 4 - from->data;
    char *said = strcasestr(from->data, "content-length:");
    return said && said < end ? length + strtoul(said + 15, NULL, 10) : length;
}

static int say_log(int fd) {
    char head[128];
    size_t size = logged_n * sizeof *logged;
    int length =
        snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\ncontent-length: %zu\r\n\r\n", size);
    return write_all(fd, head, length) || write_all(fd, (char *)logged, size);
}

static int give_answer(struct connection *to, int64_t arrived) {
    if (stamps && logged_n < MOST_LOGGED) {
        int64_t now = realtime_ns();
        logged[logged_n++] = (struct moment){arrived ? arrived : now, now};
    }
    return write_all(to->fd, answer, answer_length);
}

/* Give the answers that are due; how many milliseconds epoll may sleep at most, -1: for ever. */
static int give_due_answers(int timer) {
    while (heap_n && heap[0].due <= realtime_ns()) {
        struct answer_due one = pop();
        one.to->waiting--;
        if (one.to->fd >= 0)
            give_answer(one.to, one.arrived); /* a broken one is noticed by reading from it */
        else if (!one.to->waiting)
            free(one.to);
    }
    if (!heap_n)
        return -1;
    int64_t wake = heap[0].due - SPIN_NS;
    if (wake <= realtime_ns())
        return 0;
    struct itimerspec at = {.it_value = {wake / 1000000000LL, wake % 1000000000LL}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
    return -1;
}

/* Take what came in; -1 when the connection is over. Blocks only on an answer nobody reads. */
static int serve(struct connection *from) {
    int64_t arrived = 0;
    ssize_t n = receive(from, &arrived);
    if (n <= 0)
        return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
    from->got += n;
    if (!from->expected) {
        size_t length = length_of(from);
        if (length > LONGEST_REQUEST)
            return -1;
        if (!length || from->got < length)
            return 0;
        if (!strncmp(from->data, "POST /-/begin ", 14) || !strncmp(from->data, "GET /-/log ", 11)) {
            int logs = from->data[0] == 'G';
            from->got = 0;
            if (logs)
                return say_log(from->fd);
            from->data[length] = 0;
            begin(from->data);
            return write_all(from->fd, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", 40);
        }
        from->expected = length;
    }
    for (; from->got >= from->expected; from->got -= from->expected) {
        if (from->got > from->expected) /* one that did not wait for its answer */
            memmove(from->data, from->data + from->expected, from->got - from->expected);
        if (kind != AT_ONCE && !arrived)
            arrived = realtime_ns();
        int64_t due = due_of(arrived);
        if (due > arrived) {
            push((struct answer_due){due, arrived, from});
            from->waiting++;
        } else if (give_answer(from, arrived))
            return -1;
    }
    return 0;
}

int main(int count, char **arguments) {
    stamps = count > 1 && !strcmp(arguments[1], "--stamps");
    answer_length = snprintf(answer, sizeof answer,
                             "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                             "connection: keep-alive\r\ncontent-length: %zu\r\n\r\n%s",
                             strlen(BODY), BODY);
    if (stamps) { /* all of it now: no page fault while requests come in */
        logged = mmap(NULL, MOST_LOGGED * sizeof *logged, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (logged == MAP_FAILED)
            fail("mmap");
    }
    if (stamps) { /* a server has no browser beside it: where it may, it goes before all else */
        struct sched_param lowest = {1};
        sched_setscheduler(0, SCHED_RR, &lowest);
    }
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof here;
    if (bind(listener, (struct sockaddr *)&here, size) || listen(listener, 1024))
        fail("listen");
    getsockname(listener, (struct sockaddr *)&here, &size);
    printf("%d\n", ntohs(here.sin_port));
    fflush(stdout);

    int poll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event wanted = {.events = EPOLLIN}, ready[64];
    if (epoll_ctl(poll, EPOLL_CTL_ADD, listener, &wanted))
        fail("epoll_ctl");
    int timer = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    struct connection rings = {0};
    wanted = (struct epoll_event){.events = EPOLLIN, .data.ptr = &rings};
    if (timer < 0 || epoll_ctl(poll, EPOLL_CTL_ADD, timer, &wanted))
        fail("timerfd");
    int open = 0;
    for (;;) {
        int n = epoll_wait(poll, ready, 64, give_due_answers(timer));
        if (n < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < n; i++) {
            struct connection *one = ready[i].data.ptr;
            if (one == &rings) {
                uint64_t times;
                if (read(timer, &times, sizeof times) < 0 && errno != EAGAIN)
                    fail("timerfd");
            } else if (!one) {
                int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                if (fd < 0)
                    continue;
                if (open == MOST_CONNECTIONS || !(one = calloc(1, sizeof *one))) {
                    close(fd);
                    continue;
                }
                one->fd = fd;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                if (stamps)
                    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
                wanted = (struct epoll_event){.events = EPOLLIN, .data.ptr = one};
                if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &wanted))
                    fail("epoll_ctl");
                open++;
            } else if (serve(one)) {
                close(one->fd);
                one->fd = -1;
                if (!one->waiting)
                    free(one);
                open--;
            }
        }
    }
}
