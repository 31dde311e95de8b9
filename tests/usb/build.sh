#!/bin/bash
# build.sh CACHE: puts into CACHE what the guest boots from: vmlinux (Debian's kernel) and base.cpio (busybox, the
# USB serial drivers, Python 3.11, what cnxman depends on). Does nothing where that is done already.
# Needs Debian 12 with apt and pip; installs QEMU where it is missing, which takes root.
set -euo pipefail
CACHE=${1:?usage: build.sh CACHE}
HERE=$(cd "$(dirname "$0")" && pwd)
PYTHON=${PYTHON:-python3}
SITE="Automat pyserial PyDispatcher"
DEBS="busybox-static libc6 libexpat1 libffi8 zlib1g libpython3.11-minimal libpython3.11-stdlib python3.11-minimal"
DRIVERS="common/usb-common core/usbcore host/uhci-hcd serial/usbserial serial/ftdi_sio"

say() { echo "tests.usb: $*" >&2; }
as_root() { [ "$(id -u)" = 0 ] || { say "needs root: $*"; exit 1; }; "$@"; }

if ! command -v qemu-system-x86_64 >/dev/null; then
    say "installing qemu-system-x86"
    as_root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends qemu-system-x86 >/dev/null
fi

STAMP=$(cat "$HERE/build.sh" "$HERE/cpio.py" | sha256sum | cut -c1-16)
[ "$(cat "$CACHE/stamp" 2>/dev/null)" != "$STAMP" ] || exit 0
say "building into $CACHE (about a minute)"
mkdir -p "$CACHE"
WORK=$(mktemp -d "$CACHE/build.XXXXXX")
trap 'rm -rf "$WORK"' EXIT
mkdir "$WORK/debs" "$WORK/kernel" "$WORK/root"

# Debian's packages, unpacked and never installed. The lists may be missing, or older than the mirror.
fetch() {
    local kernel
    kernel=$(apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
    [ -n "$kernel" ] && (cd "$WORK/debs" && apt-get download -qq -o APT::Sandbox::User=root "$kernel" $DEBS)
}
fetch || { as_root apt-get update -qq; fetch; } || { say "cannot fetch Debian's packages"; exit 1; }
for deb in $DEBS; do dpkg -x "$WORK/debs/${deb}"_*.deb "$WORK/root"; done
dpkg --fsys-tarfile "$WORK"/debs/linux-image-*.deb |
    tar -x -C "$WORK/kernel" --wildcards './boot/vmlinuz-*' './lib/modules/*/kernel/drivers/usb/*'

# The kernel as QEMU starts it soonest: the ELF image within vmlinuz.
"$PYTHON" - "$WORK"/kernel/boot/vmlinuz-* "$WORK/vmlinux" <<'EOF'
import lzma, sys
data = open(sys.argv[1], "rb").read()
elf = lzma.LZMADecompressor().decompress(data[data.find(b"\xfd7zXZ\0"):])
open(sys.argv[2], "wb").write(elf)
EOF

# The drivers, in the order they load.
ROOT=$WORK/root
mkdir "$ROOT/modules"
for driver in $DRIVERS; do
    cp "$WORK"/kernel/lib/modules/*/kernel/drivers/usb/$driver.ko "$ROOT/modules/"
    echo "$(basename $driver).ko" >>"$ROOT/modules/order"
done

# Python: what cnxman depends on, all of it compiled by the guest's own interpreter.
"$PYTHON" -m pip install -q --disable-pip-version-check --root-user-action=ignore --no-compile \
    --target "$ROOT/site" --only-binary=:all: --python-version 3.11 $SITE
ln -sf python3.11 "$ROOT/usr/bin/python3"
rm -rf "$ROOT"/usr/share "$ROOT"/usr/lib/x86_64-linux-gnu/gconv
LIBS=$ROOT/lib/x86_64-linux-gnu
PYTHONHOME=$ROOT/usr "$LIBS/ld-linux-x86-64.so.2" --library-path "$LIBS:$ROOT/usr/lib/x86_64-linux-gnu" \
    "$ROOT/usr/bin/python3.11" -m compileall -q --invalidation-mode unchecked-hash -s "$ROOT" -p / \
    "$ROOT/usr/lib/python3.11" "$ROOT/site" >/dev/null || true # lib2to3 has tests that don't compile

"$PYTHON" "$HERE/cpio.py" "$WORK/base.cpio" "$ROOT"
mv "$WORK/vmlinux" "$WORK/base.cpio" "$CACHE/"
echo "$STAMP" >"$CACHE/stamp"
