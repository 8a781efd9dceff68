#!/bin/sh
# `make uninstall`: stops the agent for good, takes off this node what it rendered, and removes what `make install` copied.
# What stays is said. Below DESTDIR there is no node: only the files go.
set -eu
: "${PREFIX:=/usr/local}" "${DESTDIR:=}" "${PURGE:=}" "${UNINSTALL_OPTIONS:=}"
: "${UNITDIR:=$PREFIX/lib/systemd/system}"
secrets=/etc/kubernetes/checkpoint-secrets
mount='etc-kubernetes-checkpoint\x2dsecrets.mount'
here=$(cd "$(dirname "$0")" && pwd)
settings=/etc/default/ckpt-db
program=$PREFIX/bin/ckpt-db
stays() { echo "STAYS: $*" >&2; }
refuse() {
  echo "error: $*" >&2
  exit 1
}
manages() { [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; }

if [ -z "$DESTDIR" ]; then
  # Its directories are known from its options alone; in the wrong ones nothing would be found, and all would seem fine.
  if [ -z "$UNINSTALL_OPTIONS" ] && [ -r "$settings" ]; then
    options=$(sed -n 's/^[[:space:]]*CKPT_DB_OPTIONS=//p' "$settings")
    for option in root store admin-socket pod-manifest-path secret-root config; do
      case " $options" in *[\ \"\']--"$option"[=\ ]*) refuse "$settings says --$option, and nothing was removed: say it to this command too, for example
  make uninstall UNINSTALL_OPTIONS='--$option ...'" ;; esac
    done
  fi
  ! manages || systemctl disable --now ckpt-db.service 2>/dev/null || true
  if [ -x "$program" ]; then
    # shellcheck disable=SC2086 # several words
    "$program" uninstall ${PURGE:+--delete-store} $UNINSTALL_OPTIONS || refuse "$program uninstall has left something (see above). The agent is stopped; its program and units were kept: run this
again when the cause is gone"
  else
    stays "everything that the agent rendered on this node: there is no $program to take it away"
  fi
  if manages; then
    systemctl stop "$mount" 2>/dev/null || stays "the memory mounted at $secrets: something uses it"
  fi
  if ! grep -q " $secrets " /proc/mounts; then
    rmdir "$secrets" 2>/dev/null || true
  fi
  [ ! -d "$secrets" ] || stays "$secrets"
else
  echo "removing files below $DESTDIR. What an agent has rendered on a node it does not touch: ckpt-db uninstall, there, does" >&2
fi

remove() { rm -f -- "$DESTDIR$1"; }
remove "$program"
remove "$UNITDIR/ckpt-db.service"
remove "$UNITDIR/$mount"
remove "$UNITDIR/kubelet.service.d/10-ckpt-db.conf"
rmdir "$DESTDIR$UNITDIR/kubelet.service.d" 2>/dev/null || true
rm -rf -- "$DESTDIR$PREFIX/share/doc/ckpt-db"
rm -f -- "$DESTDIR$PREFIX"/share/man/man[0-9]/ckpt-db.[0-9] "$DESTDIR$PREFIX"/share/man/man[0-9]/ckpt-db-*.[0-9]
remove "$PREFIX/share/bash-completion/completions/ckpt-db"
remove "$PREFIX/share/zsh/site-functions/_ckpt-db"
remove "$PREFIX/share/fish/vendor_completions.d/ckpt-db.fish"
[ -z "$PURGE" ] || remove /etc/ckpt-db/config.yaml
rmdir "$DESTDIR/etc/ckpt-db" 2>/dev/null || true
if [ -n "$PURGE" ] || cmp -s "$DESTDIR$settings" "$here/ckpt-db.default"; then
  remove "$settings"
fi
! manages || systemctl daemon-reload

if [ -z "$DESTDIR" ]; then
  for path in "$settings" /etc/ckpt-db /etc/systemd/system/ckpt-db.service.d /etc/credstore.encrypted/ckpt-db.key /var/lib/ckpt-db; do
    [ ! -e "$path" ] || stays "$path"
  done
fi
