#!/bin/sh
# Makes what compose.yaml asks for and must not contain: .env with a password for each database and the user that the
# containers run as, and the folder for the installation's key and certificates, which `prepare` fills.
set -eu
cd "$(dirname "$0")"
umask 077
if [ -e .env ]; then
    echo "secrets.sh: .env exists; the databases know its passwords, so it stays as it is" >&2
    exit 1
fi
password() {
    od -A n -t x1 -N 32 /dev/urandom | tr -d ' \n'
}
mkdir -p secrets
cat > .env.new <<END
# The owner of secrets/, as whom the containers run.
OPERATOR=$(id -u):$(id -g)
# What clients reach the services by; it goes into their certificates.
PUBLIC_NAME=${1:-localhost}
POSTGRES_PASSWORD=$(password)
IDENTITY_PASSWORD=$(password)
REGISTRY_PASSWORD=$(password)
IPAM_PASSWORD=$(password)
SESSION_PASSWORD=$(password)
END
mv .env.new .env
