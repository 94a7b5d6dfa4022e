#!/bin/sh
# make-venv.sh [EXTRAS]: makes .venv and installs Postroad with its dependencies into it; `make` calls it before all else.
#
# It costs a few milliseconds when nothing changed, and it may be broken off at any point: the next call repairs what
# it finds. Two calls at once wait for each other. EXTRAS is a list as in pyproject.toml ("dev"), or nothing.
# PYTHON names another interpreter: make run PYTHON=python3.12
set -eu
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
VENV=.venv
EXTRAS=${1:-}

# What the installation depends on. The path is part of it because scripts in a venv begin with it.
wanted="$(cksum <pyproject.toml) $PWD"

installed() {   # the extra asked for, or dev, which contains it, is there as wanted
    for extra in "$EXTRAS" dev; do
        stamp=$VENV/.installed-${extra:-core}
        if [ -x $VENV/bin/postroad ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return 0; fi
    done
    return 1
}

usable() {      # a venv that was broken off has no working pip, or a pip whose list of files was not written yet
    [ -x $VENV/bin/python ] && [ -e $VENV/bin/pip ] || return 1
    for record in $VENV/lib/python3*/site-packages/pip-*.dist-info/RECORD; do [ -s "$record" ] || return 1; done
    $VENV/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || return 1
    $VENV/bin/python -m pip --version >/dev/null 2>&1 || return 1
    # Moved here from another folder: everything in bin/ points back to it.
    for stamp in $VENV/.installed-*; do
        case $(cat "$stamp" 2>/dev/null) in '' | *" $PWD") ;; *) return 1 ;; esac
    done
}

if installed; then exit 0; fi

if ! "$PYTHON" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "Postroad needs Python 3.11 or newer with venv; on Debian 12: apt install make python3-venv" >&2
    exit 1
fi

exec 9<pyproject.toml
flock 9
if installed; then exit 0; fi

echo "postroad: installing into $VENV (once; about a minute)" >&2
usable || "$PYTHON" -m venv --clear $VENV

# pip writes RECORD last. A package without it was broken off, yet pip would take it for installed.
for package in $VENV/lib/python3*/site-packages/*.dist-info; do
    if [ -d "$package" ] && [ ! -s "$package/RECORD" ]; then rm -rf "$package"; fi
done

if ! $VENV/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${EXTRAS:+[$EXTRAS]}" 9<&-; then
    echo "postroad: the installation failed (see above); nothing is broken, run the command again" >&2
    exit 1
fi
echo "$wanted" >"$VENV/.installed-${EXTRAS:-core}"
