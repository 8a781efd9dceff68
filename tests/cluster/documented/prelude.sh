# What comments before the blocks of a page may ask for.
unset NODE_NAME KUBERNETES_SERVICE_HOST RUST_LOG
export PATH=/usr/local/bin:$PATH HOME=/var PAGER=cat SYSTEMD_PAGER=
if [ -d /var/checkout ]; then cd /var/checkout || exit 1; fi

# Asks again for half a minute.
until_true() {
  for _ in $(seq 300); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.1
  done
  "$@"
}
in_step() { until_true sh -c 'ckpt-db status -o json | jq -e ".apiServer.state == \"Answering\" and .store.populated"'; }
silent() { until_true sh -c 'ckpt-db status -o json | jq -e ".apiServer.state == \"Silent\""'; }

# As docs/how-to/install.md has it, with this activation policy.
installed() {
  install -m 0755 ckpt-db /usr/local/bin/ && install -m 0644 dist/systemd/*.service dist/systemd/*.mount /etc/systemd/system/ &&
    mkdir -p /etc/ckpt-db &&
    printf '%s\n' 'apiVersion: ckpt-db.io/v1alpha1' 'kind: CheckpointerConfiguration' ${1:+"activationPolicy: $1"} \
      >/etc/ckpt-db/config.yaml &&
    systemctl daemon-reload && systemctl enable --now ckpt-db && in_step
}

# The API server goes, or comes back: api_server down, api_server up.
api_server() {
  at=${CKPT_DB_ROOT:-/var}
  echo "$1" >"$at/api-server.asked"
  until_true grep -qx "$1" "$at/api-server.told"
}
