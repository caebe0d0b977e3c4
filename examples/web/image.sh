#!/bin/sh
# Makes the image muster-web:demo without a registry: one static busybox and this directory's serve.sh.
# Needs busybox-static (Debian: apt-get install busybox-static) and the right to use Docker.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
busybox=$(command -v busybox) || { echo "image.sh: there is no busybox; install busybox-static" >&2; exit 1; }

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/bin" "$tree/tmp" "$tree/www"
cp "$busybox" "$tree/bin/busybox"
for applet in sh httpd cat; do ln -s busybox "$tree/bin/$applet"; done
cp "$here/serve.sh" "$tree/bin/serve.sh"
chmod 755 "$tree/bin/serve.sh"

# A busybox that needs shared libraries can't start in an empty tree; better to learn that here.
chroot "$tree" /bin/sh -c : 2>/dev/null || [ "$(id -u)" != 0 ] ||
    { echo "image.sh: $busybox isn't static; install busybox-static" >&2; exit 1; }

tar -C "$tree" --owner=0 --group=0 --numeric-owner -c . |
    docker import --change 'CMD ["/bin/serve.sh"]' --change 'EXPOSE 8080' - muster-web:demo
