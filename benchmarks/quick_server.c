/* Answers every request at once, and knows when each one arrived.
 *
 * The same as null_server.py, in C: one core of it serves several times what a client's core can
 * ask for, so that what is timed is the client. For each request it keeps two moments, which
 * `GET /-/log` gives as two int64 (ns) each: when its last byte came in by the kernel's stamp, which
 * no queue of this process can delay, and when this process read it. On loopback the kernel's stamp
 * is taken within the sender's own system call. `POST /-/begin` empties the log.
 *
 * Not a web server: the first request on a connection says by Content-Length how long all others on
 * it are. One argument, `--stamps`: keep the log (socket(7), SO_TIMESTAMPNS). Prints its port.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define LONGEST_REQUEST 16384
#define MOST_CONNECTIONS 2048
#define MOST_LOGGED (4 << 20)
#define BODY                                                                                  \
    "{\"model_name\":\"null\",\"model_version\":\"1\",\"id\":\"0\",\"outputs\":[{\"name\":"   \
    "\"output-1\",\"shape\":[1,1],\"datatype\":\"FP64\",\"data\":[0.5]}]}"

struct connection {
    int fd;
    size_t got, expected; /* expected: 0 until the first request told its length */
    char data[LONGEST_REQUEST + 1];
};
struct moment {
    int64_t arrived, read;
};

static struct moment *logged;
static size_t logged_n;
static int stamps;
static char answer[512];
static size_t answer_length;

static int64_t realtime_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
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
            logged_n = 0;
            return write_all(from->fd, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", 40);
        }
        from->expected = length;
    }
    for (; from->got >= from->expected; from->got -= from->expected) {
        if (from->got > from->expected) /* one that did not wait for its answer */
            memmove(from->data, from->data + from->expected, from->got - from->expected);
        if (stamps && logged_n < MOST_LOGGED) {
            int64_t now = realtime_ns();
            logged[logged_n++] = (struct moment){arrived ? arrived : now, now};
        }
        if (write_all(from->fd, answer, answer_length))
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
    int open = 0;
    for (;;) {
        int n = epoll_wait(poll, ready, 64, -1);
        if (n < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < n; i++) {
            struct connection *one = ready[i].data.ptr;
            if (!one) {
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
                free(one);
                open--;
            }
        }
    }
}
