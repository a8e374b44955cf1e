#!/usr/bin/env bash
# Installs a program with its units, manual pages, completions and examples: install.sh PROGRAM ROOT PREFIX. ROOT is empty for this host.
# An existing configuration is kept.
set -euo pipefail
program=$(realpath "$1")
root=$2
prefix=$root$3
deploy=$(cd "$(dirname "$0")" && pwd)
install -D -m 755 "$program" "$prefix/bin/kontiki.new"
mv -f "$prefix/bin/kontiki.new" "$prefix/bin/kontiki" # also while the old one runs
install -d "$prefix/lib/systemd/system" "$prefix/lib/sysctl.d" "$prefix/share/man/man1" "$prefix/share/doc/kontiki/examples"
for unit in "$deploy"/systemd/*.service; do
  sed "s|/usr/bin/kontiki|$3/bin/kontiki|" "$unit" > "$prefix/lib/systemd/system/$(basename "$unit")"
done
install -m 644 "$deploy"/sysctl/*.conf "$prefix/lib/sysctl.d"
install -m 644 "$deploy"/config/*-*.yaml "$deploy/config/worker.yaml" "$prefix/share/doc/kontiki/examples"
if [ ! -e "$root/etc/kontiki/config.yaml" ]; then
  install -D -m 600 "$deploy/config/config.yaml" "$root/etc/kontiki/config.yaml" # it may get a token
fi
"$program" generate man "$prefix/share/man/man1"
gzip -9nf "$prefix"/share/man/man1/kontiki*.1
for shell in bash zsh fish; do
  case $shell in
    bash) file=$prefix/share/bash-completion/completions/kontiki ;;
    zsh) file=$prefix/share/zsh/vendor-completions/_kontiki ;;
    fish) file=$prefix/share/fish/vendor_completions.d/kontiki.fish ;;
  esac
  install -d "$(dirname "$file")"
  "$program" completion $shell > "$file"
done
