#!/bin/sh
# install-test-programs.sh: the system programs that only the tests use, from Debian 12's own packages.
#
# Nothing of this is needed to run Postroad. `make test` skips a test whose program is absent and says how many it
# skipped; with CI=true such a skip fails, so .ci/run calls this script first. It may be called any number of times,
# as root or through sudo. Nothing that it installs is started: no mail server, no database, now or at the next boot.
#
#   postfix           smtp-source and smtp-sink, and a real MTA to exchange mail with
#   swaks curl msmtp  clients that send; swaks speaks TLS by libnet-ssleay-perl, which Debian only recommends
#   neomutt fetchmail isync (mbsync)          clients that read; mbsync logs in by libsasl2-modules
#   postgresql        PostgreSQL 15; tests start its binaries on a private socket, never as a system service
#   strace eatmydata xfsprogs                 order of system calls, and control runs for the crash tests
#   openssl procps util-linux                 s_client, ps, setpriv
#   opendkim rspamd   milters; tests start them on private sockets, never as a system service
#   opendkim          also says what others think of our DKIM signatures
#   testssl.sh        what others say about our TLS
#   haproxy           a proxy that names its clients by PROXY headers
#   unbound ldnsutils a resolver that validates DNSSEC, and the tools that sign a zone for it
#   pebble            an ACME authority that issues certificates, and the DNS server that goes with it
set -eu

PACKAGES="postfix swaks libnet-ssleay-perl curl msmtp ca-certificates neomutt fetchmail isync libsasl2-modules
    postgresql strace eatmydata xfsprogs openssl procps util-linux haproxy opendkim rspamd pebble testssl.sh
    unbound ldnsutils"
# shellcheck disable=SC2086  # a list of words on purpose
missing=$(for package in $PACKAGES; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || echo "$package"
done)
if [ -z "$missing" ]; then
    echo "install-test-programs: everything is here already"
    exit 0
fi

if ! command -v apt-get >/dev/null; then
    echo "install-test-programs: this script knows Debian's apt-get only; install by hand:" $missing >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null; then exec sudo -- "$0" "$@"; fi
    echo "install-test-programs: must run as root (there is no sudo here); missing:" $missing >&2
    exit 1
fi

export DEBIAN_FRONTEND=noninteractive
apt() { apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@"; }

# 101: "not allowed". Debian's packages ask this file before they start a service. An existing one stays as it is.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 130' INT TERM
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
fi

apt update
# Answers that the packages ask for while they are set up: no mail configuration, no database cluster.
echo "postfix postfix/main_mailer_type select No configuration" | debconf-set-selections
mkdir -p /etc/postgresql-common/createcluster.d
echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/postroad-tests.conf

# shellcheck disable=SC2086
apt install --no-install-recommends $missing >/dev/null

# Not at the next boot either, where there is a boot.
if [ -d /run/systemd/system ]; then
    systemctl disable --quiet postfix postgresql fetchmail unbound opendkim rspamd 2>/dev/null || true
fi
echo "install-test-programs: installed" $missing
