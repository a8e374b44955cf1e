#!/usr/bin/env bash
# Builds the Debian package from a program: build.sh PROGRAM OUTPUT.deb. COMPRESSION is dpkg-deb's (-Zxz, -Zzstd, -Znone).
set -euo pipefail
program=$(realpath "$1")
output=$(realpath -m "$2")
deploy=$(cd "$(dirname "$0")/.." && pwd)
# v1.37.2+kontiki.0.1 is version 0.1 of the package.
version=$("$program" --version)
version=${version##*+kontiki.}
root=$(mktemp -d)
chmod 755 "$root"
trap 'rm -rf "$root"' EXIT
"$deploy/install.sh" "$program" "$root" /usr
mkdir "$root/DEBIAN"
install -m 755 "$deploy"/debian/{postinst,prerm,postrm} "$root/DEBIAN"
install -m 644 "$deploy/debian/conffiles" "$root/DEBIAN"
sed -e "s/@VERSION@/$version/; s/@ARCH@/$(dpkg --print-architecture)/; s/@SIZE@/$(du -sk "$root/usr" | cut -f1)/" "$deploy/debian/control.in" > "$root/DEBIAN/control"
dpkg-deb --root-owner-group ${COMPRESSION:--Zxz} --build "$root" "$output"
