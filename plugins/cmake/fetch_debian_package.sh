#!/bin/sh
# Usage: fetch_debian_package.sh FOLDER PACKAGE FILE
# Downloads a package of Debian 13 with apt, without root and without touching the system's package lists, and unpacks
# it to FOLDER; FILE (usr/include/...) must be in it. The signatures are checked with the system's Debian keys.
set -eu
folder=$1 package=$2 file=$3
mkdir -p "$(dirname "$folder")"
work=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$work"' EXIT

# The mirrors that this machine already uses for Debian (deb822 files, then the one-line style), then the public
# one. A mirror of security updates, or of another distribution, has no suite trixie.
own_mirrors=$(
  {
    cat /etc/apt/sources.list.d/*.sources 2>/dev/null | sed -n 's/^URIs:[[:space:]]*\([^[:space:]]*\).*/\1/p'
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
      sed -n 's/^deb[[:space:]]\{1,\}\(\[[^]]*\][[:space:]]\{1,\}\)\{0,1\}\([^[:space:]]*\).*/\2/p'
  } | grep debian | grep -v security | awk '!seen[$0]++'
) || true

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
options=
[ ! -r "$keyring" ] || options="[signed-by=$keyring] "
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/root"
cd "$work"

private_apt() {
  apt-get -q -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::State="$work/state" -o Dir::State::status=/dev/null -o Dir::Cache="$work/cache" \
    -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none -o Acquire::Retries=1 \
    -o Acquire::http::Timeout=10 -o Acquire::https::Timeout=10 "$@"
}
for mirror in $own_mirrors http://deb.debian.org/debian; do
  echo "deb ${options}$mirror trixie main" >sources.list
  if private_apt update && private_apt download "$package"; then
    break
  fi
done
dpkg -x "$package"_*.deb root
test -e "root/$file"

rm -rf "$folder"
mv root "$folder"
