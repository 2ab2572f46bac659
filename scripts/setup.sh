#!/usr/bin/env bash
# Makes a Debian-like machine ready to build, test and run yr. Every make target calls it first; when there is
# nothing to do it takes a fraction of a second.
#
# What it installs, and where:
#   - the Debian packages below whose command is missing, if it may (root or sudo); it never upgrades one
#   - Go, if `go` is missing or too old for go.mod: into build/tools
#   - the Python packages of scripts/requirements.txt: into .venv
#   - with `scripts/setup.sh lint`: golangci-lint, into build/tools
#   - with `scripts/setup.sh generate`: protoc (Debian's protobuf-compiler) and protoc-gen-go and protoc-gen-go-grpc, into build/tools
# Nothing else is changed, and pip never installs outside of .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

# command:package
packages=(
  python3:python3       # the SDK, tests and examples; 3.9 or newer
  gcc:gcc               # go test -race needs cgo
  ps:procps             # tests look at processes
  ip:iproute2           # tests of several nodes make network namespaces
  strace:strace         # tests count system calls
)
golangci_lint=v2.15.0
protoc_gen_go=v1.36.12
protoc_gen_go_grpc=v1.6.2

tools=$PWD/build/tools
export PATH=$tools/bin:$PATH

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$@" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# apt_install PACKAGE...: installs them, or says what a person should type.
apt_install() {
  command -v apt-get >/dev/null ||
    die "missing: $*" "This is no Debian-like system; install them with its own package tool and try again."
  say "installing with apt-get: $*"
  as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
    die "could not install: $*" "As root, type:  apt-get update && apt-get install $*"
}

debian_packages() {
  local missing=() pair
  for pair in "${packages[@]}"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
  done
  [ ! -x .venv/bin/python ] && ! python3 -c 'import ensurepip, venv' 2>/dev/null && missing+=(python3-venv)
  # Only the race detector compiles C, and it needs the headers that --no-install-recommends leaves out.
  [ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
  [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' || die "python3 is older than 3.9"
}

# go_version: what `go` is, such as 1.26.3; empty without one.
go_version() { command -v go >/dev/null && go env GOVERSION | sed 's/^go//;s/[ -].*//' || true; }
at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

# go_toolchain: from 1.21 on, go fetches by itself the version that go.mod asks for. An older one, such as Debian 12's,
# can at least download that same toolchain as a module.
go_toolchain() {
  local wanted have module answer directory arch
  wanted=$(awk '$1 == "go" {print $2}' go.mod)
  have=$(go_version)
  if [ -z "$have" ]; then
    apt_install golang-go ca-certificates
    have=$(go_version)
  fi
  at_least "$wanted" "$have" && return
  if ! at_least 1.21 "$have"; then
    case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) die "no Go toolchain for $(uname -m)" ;; esac
    module=golang.org/toolchain@v0.0.1-go$wanted.linux-$arch
    say "go is $have; downloading $module"
    answer=$(cd / && GOFLAGS=-mod=mod go mod download -json "$module") || true
    directory=$(sed -n 's/.*"Dir": "\(.*\)".*/\1/p' <<<"$answer")
    [ -d "$directory" ] || die "could not download Go $wanted" "$answer" "Install Go $wanted or newer and put it into PATH."
    mkdir -p "$tools/bin"
    # The underscore keeps its sources out of ./... patterns.
    cp -r "$directory" "$tools/_go" && chmod -R u+w "$tools/_go"
    chmod +x "$tools"/_go/bin/* "$tools"/_go/pkg/tool/*/*
    ln -sf ../_go/bin/go ../_go/bin/gofmt "$tools/bin/"
    have=$(go_version)
  fi
  at_least "$wanted" "$have" ||
    die "Go $wanted or newer is needed, and $(command -v go) is $have" "Install it and put it into PATH."
}

python_packages() {
  cmp -s scripts/requirements.txt .venv/requirements.txt && return
  say "installing Python packages into .venv"
  [ -x .venv/bin/python ] || python3 -m venv .venv
  .venv/bin/python -m pip install -q --disable-pip-version-check -r scripts/requirements.txt ||
    die "pip could not install scripts/requirements.txt (is the network there?)"
  cp scripts/requirements.txt .venv/requirements.txt
}

# go_tool NAME PACKAGE VERSION: builds a Go program into build/tools, once for each version.
go_tool() {
  [ -e "$tools/$1-$3" ] && [ -x "$tools/bin/$1" ] && return
  say "building $1 $3"
  mkdir -p "$tools/bin"
  GOBIN=$tools/bin GOFLAGS= go install "$2@$3"
  touch "$tools/$1-$3"
}

debian_packages
go_toolchain
python_packages
case ${1:-} in
  '') ;;
  lint) go_tool golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint "$golangci_lint" ;;
  generate)
    command -v protoc >/dev/null || apt_install protobuf-compiler
    go_tool protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go "$protoc_gen_go"
    go_tool protoc-gen-go-grpc google.golang.org/grpc/cmd/protoc-gen-go-grpc "$protoc_gen_go_grpc"
    ;;
  *) die "usage: scripts/setup.sh [lint|generate]" ;;
esac
