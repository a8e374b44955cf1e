#!/bin/sh
# again.sh [NAME...] sees bugs again: for each patch here it runs the test that found or pins the bug, with the patch in place, which
# brings the bug back. The test must fail. The first line of a patch is the command. Nothing in the tree is changed: the patched files
# are laid over it (go help build, -overlay).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
[ $# -gt 0 ] || set -- $(cd "$here" && ls ./*.patch | sed 's|^\./||; s|\.patch$||')
laid=$(mktemp -d)
trap 'rm -rf "$laid"' EXIT
missed=0
for name; do
  rm -rf "$laid"/*
  files=$(sed -n 's|^+++ b/||p' "$here/$name.patch")
  replace=
  for f in $files; do
    mkdir -p "$laid/$(dirname "$f")"
    cp "$root/$f" "$laid/$f"
    replace="$replace${replace:+,}\"$root/$f\":\"$laid/$f\""
  done
  (cd "$laid" && GIT_DIR=/dev/null git apply --unidiff-zero "$here/$name.patch")
  echo "{\"Replace\":{$replace}}" > "$laid/overlay.json"
  command=$(sed -n '1s|^go test |go test -count=1 -timeout 4m -overlay "$laid/overlay.json" |p' "$here/$name.patch")
  begun="$name: $(head -1 "$here/$name.patch")"
  if (cd "$root" && eval "go vet -overlay \"$laid/overlay.json\" $(echo "$command" | grep -o ' \./[^ ]*')" && ! eval "$command") > "$laid/out" 2>&1; then
    echo "$begun: seen again: $(grep -m 1 -E -- '--- FAIL|^panic:|DATA RACE|^fatal|SIGBUS|deadlock' "$laid/out" || tail -1 "$laid/out")"
  else
    echo "$begun: NOT SEEN"
    tail -5 "$laid/out"
    missed=1
  fi
done
exit $missed
