#!/bin/sh
# Installs the load tools that the benchmarks are measured against: sh benchmarks/peers.sh DIR
# Then put DIR/bin on the PATH. What fails to install is named at the end and left out.
set -u
dir=$(mkdir -p "${1:?a folder to install into}" && cd "$1" && pwd)
mkdir -p "$dir/bin"
failed=""

want() { # want NAME COMMAND...
    name=$1
    shift
    if command -v "$name" >/dev/null || [ -x "$dir/bin/$name" ]; then
        echo "$name: there"
    elif "$@" >"$dir/$name.log" 2>&1; then
        echo "$name: installed"
    else
        echo "$name: failed, see $dir/$name.log"
        failed="$failed $name"
    fi
}

venv_of() { # a virtual environment with one tool
    python3 -m venv "$dir/$1" && "$dir/$1/bin/pip" install -q "$1" && ln -sf "$dir/$1/bin/$1" "$dir/bin/$1"
}

kube_peers() { # other Kubernetes clients, for row 10
    python3 -m venv "$dir/kube" && "$dir/kube/bin/pip" install -q lightkube kr8s &&
        ln -sf "$dir/kube/bin/python" "$dir/bin/kube-peers"
}

node_tool() {
    npm install --prefix "$dir/$1" "$1" && ln -sf "$dir/$1/node_modules/.bin/$1" "$dir/bin/$1"
}

want wrk apt-get install -y wrk
want hey apt-get install -y hey
want ab apt-get install -y apache2-utils
want h2load apt-get install -y nghttp2-client
want vegeta env GOBIN="$dir/bin" go install github.com/tsenart/vegeta/v12@latest
want k6 env GOBIN="$dir/bin" go install go.k6.io/k6@latest
want oha cargo install oha --locked --root "$dir"
want autocannon node_tool autocannon
want locust venv_of locust
want kube-peers kube_peers
[ -z "$failed" ] || echo "left out:$failed"
