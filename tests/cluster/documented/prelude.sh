# What comments before the blocks of a page may ask for.
unset NODE_NAME KUBERNETES_SERVICE_HOST RUST_LOG
export PATH=/usr/local/bin:$PATH HOME=/var PAGER=cat SYSTEMD_PAGER=
if [ -d /var/checkout ]; then cd /var/checkout || exit 1; fi

# Asks again for a minute.
until_true() {
  for _ in $(seq 600); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.1
  done
  "$@"
}
in_step() { until_true sh -c 'ckpt-db status -o json | jq -e ".apiServer.state == \"Answering\" and .store.populated"'; }
silent() { until_true sh -c 'ckpt-db status -o json | jq -e ".apiServer.state == \"Silent\""'; }
policy_is() { until_true sh -c "ckpt-db status -o json | jq -e '.policy == \"$1\"'"; }

# As docs/how-to/install.md has it, with this activation policy. Agents of other tests may have the usual port.
METRICS=$((20000 + RANDOM % 10000))
installed() {
  make -s install BINARY=./ckpt-db &&
    printf '%s\n' 'apiVersion: ckpt-db.io/v1alpha1' 'kind: CheckpointerConfiguration' \
      "metricsBindAddress: 127.0.0.1:$METRICS" ${1:+"activationPolicy: $1"} >/etc/ckpt-db/config.yaml &&
    systemctl enable --now ckpt-db && in_step
}
curl() { command curl --fail "${@//127.0.0.1:10271/127.0.0.1:$METRICS}"; }

# The API server goes, or comes back: api_server down, api_server up.
api_server() {
  at=${CKPT_DB_ROOT:-/var}
  echo "$1" >"$at/api-server.asked"
  until_true grep -qx "$1" "$at/api-server.told"
}
