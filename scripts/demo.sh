#!/usr/bin/env bash
# make demo: installs the wheel as a user would, starts a one-node cluster in build/demo, runs the examples on it,
# stops it, and shows that nothing is left.
set -euo pipefail
cd "$(dirname "$0")/.."

demo=build/demo
sessions=$demo/sessions
examples=examples/python

# Every process of this cluster inherits this mark; it is how we find out what is left at the end.
export YR_DEMO_MARK=$$
# Where `yr.init()` looks for a running cluster, instead of /tmp/yr_sessions.
export YR_MASTER_INFO_PATH=$PWD/$sessions/yr_current_master_info

heading() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

# run COMMAND...: shows a command as one would type it, and runs it.
run() {
  local word line='$'
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./=-]+$ ]] && line+=" $word" || line+=" '$word'"
  done
  printf '\033[2m%s\033[0m\n' "$line"
  "$@"
}

# left_over: processes that carry the mark, but for this script.
left_over() {
  local environment pid
  for environment in /proc/[0-9]*/environ; do
    pid=${environment#/proc/} pid=${pid%/environ}
    [ "$pid" != $$ ] && [ "$pid" != "$BASHPID" ] || continue
    if grep -qz "^YR_DEMO_MARK=$$\$" "$environment" 2>/dev/null; then ps -o pid=,args= -p "$pid"; fi
  done
  return 0
}

stop() { yr stop --log-dir-prefix "$sessions" >/dev/null 2>&1 || true; }

install_wheel() {
  local venv=$demo/venv
  if ! cmp -s scripts/requirements.txt "$venv/requirements.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check dist/openyuanrong-*.whl numpy
    cp scripts/requirements.txt "$venv/"
  fi
  "$venv/bin/pip" install -q --disable-pip-version-check --force-reinstall --no-deps dist/openyuanrong-*.whl
  export PATH=$PWD/$venv/bin:$PATH
  hash -r
}

heading "Install the wheel"
install_wheel
run yr version

heading "Start a cluster of one node"
trap stop EXIT
rm -rf "$sessions"
# What it says about adding nodes is long, and not for here.
run yr start --master --log-dir-prefix "$sessions" -s 'values.cpu_num=8000' -s 'values.memory_num=8192' \
  -s 'function_agent.args.custom_resources="{\"ssd\":1}"' | sed '/^To add a worker/,/^Merge your/d'

for example in 01_tour 02_counter_resources 03_pass_handle 04_named_instance monte_carlo_pi word_count image_pipeline; do
  heading "$(sed -n '1s/^"""//p' $examples/$example.py)"
  run python $examples/$example.py
done

heading "Look at it"
run yr status --log-dir-prefix "$sessions"
run yr list instances --log-dir-prefix "$sessions"

heading "Stop it"
run yr stop --log-dir-prefix "$sessions"
trap - EXIT
left=$(left_over; find "$sessions" -type s)
if [ -n "$left" ]; then
  printf 'left behind:\n%s\n' "$left" >&2
  exit 1
fi
echo "No process is left, so no shared memory either, and no socket. The logs are in $sessions/latest/logs."
