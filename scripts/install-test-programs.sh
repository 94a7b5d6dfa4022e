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
#   iproute2          hosts in network namespaces
#   exim4 opensmtpd   MTAs to send mail to. Debian lets a machine have one MTA only, so these are fetched and unpacked
#                     under /opt/postroad-tests, each in a folder of its own; only libraries they need are installed
set -eu

PACKAGES="postfix swaks libnet-ssleay-perl curl msmtp ca-certificates neomutt fetchmail isync libsasl2-modules
    postgresql strace eatmydata xfsprogs openssl procps util-linux haproxy opendkim rspamd pebble testssl.sh
    unbound ldnsutils iproute2 libdb5.3 libevent-2.1-7 libgnutls-dane0 libidn12 libnsl2 libpcre2-8-0"
UNPACKED=/opt/postroad-tests
# shellcheck disable=SC2086  # a list of words on purpose
missing=$(for package in $PACKAGES; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || echo "$package"
done)

# What is unpacked in which folder; a folder gets its name when it is whole.
trees() {
    echo "exim exim4-daemon-light exim4-base"
    echo "opensmtpd opensmtpd"
}
missing_trees=$(trees | while read -r tree packages; do
    [ -d "$UNPACKED/$tree" ] || echo "$tree"
done)
if [ -z "$missing$missing_trees" ]; then
    echo "install-test-programs: everything is here already"
    exit 0
fi

if ! command -v apt-get >/dev/null; then
    echo "install-test-programs: this script knows Debian's apt-get only; install by hand:" $missing $missing_trees >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null; then exec sudo -- "$0" "$@"; fi
    echo "install-test-programs: must run as root (there is no sudo here); missing:" $missing $missing_trees >&2
    exit 1
fi

export DEBIAN_FRONTEND=noninteractive
apt() { apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@"; }

# 101: "not allowed". Debian's packages ask this file before they start a service. An existing one stays as it is.
policy=/usr/sbin/policy-rc.d
made=
scratch=$(mktemp -d)
trap 'rm -rf "$scratch" $made' EXIT
trap 'exit 130' INT TERM
if [ ! -e $policy ]; then
    made=$policy
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
fi

apt update
# Answers that the packages ask for while they are set up: no mail configuration, no database cluster.
echo "postfix postfix/main_mailer_type select No configuration" | debconf-set-selections
mkdir -p /etc/postgresql-common/createcluster.d
echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/postroad-tests.conf

# shellcheck disable=SC2086
[ -z "$missing" ] || apt install --no-install-recommends $missing >/dev/null

trees | while read -r tree packages; do
    [ ! -d "$UNPACKED/$tree" ] || continue
    mkdir -p "$scratch/$tree.debs" "$scratch/$tree" "$UNPACKED"
    # Exim's program runs as root whoever starts it: nobody else shall find it.
    chmod 700 "$UNPACKED"
    # shellcheck disable=SC2086
    (cd "$scratch/$tree.debs" && apt -o APT::Sandbox::User=root download $packages >/dev/null)
    for package in "$scratch/$tree.debs"/*.deb; do dpkg -x "$package" "$scratch/$tree"; done
    chmod 755 "$scratch/$tree"
    rm -rf "$UNPACKED/$tree.new"
    cp -a "$scratch/$tree" "$UNPACKED/$tree.new"
    mv "$UNPACKED/$tree.new" "$UNPACKED/$tree"
done

# Not at the next boot either, where there is a boot.
if [ -d /run/systemd/system ]; then
    systemctl disable --quiet postfix postgresql fetchmail unbound opendkim rspamd 2>/dev/null || true
fi
echo "install-test-programs: installed" $missing $missing_trees
