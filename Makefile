# The host service: a program that was built before, its units, and what explains them.
#
#   make              builds one static program, as any user
#   make install      copies it and the units; compiles, enables and starts nothing
#   make uninstall    stops the agent, takes off the node what it rendered, and removes what `install` copied; says what stays
#
#   make install DESTDIR=/tmp/stage PREFIX=/usr      for a package
#   make uninstall PURGE=1                           the store and the settings go too
#
# `make uninstall UNINSTALL_OPTIONS='...'` passes options to `ckpt-db uninstall`: those that the agent ran with, if its directories
# are not the usual ones.

PREFIX ?= /usr/local
DESTDIR ?=
UNITDIR ?= $(PREFIX)/lib/systemd/system
TARGET ?= $(shell uname -m)-unknown-linux-musl
BINARY ?= $(or $(CARGO_TARGET_DIR),target)/$(TARGET)/release/ckpt-db
PURGE ?=
UNINSTALL_OPTIONS ?=

bindir = $(PREFIX)/bin
share = $(PREFIX)/share
pages = $(wildcard dist/man/*.[0-9])
# For reading and copying; nothing uses them where they lie.
examples = $(wildcard dist/config.yaml dist/prometheus/alerts.yaml dist/ckpt-db.service.d/credential.conf) LICENSE

export PREFIX DESTDIR UNITDIR PURGE UNINSTALL_OPTIONS

.PHONY: all install uninstall
.DEFAULT_GOAL := all

# Static, since copies run it in images of their own.
all:
	RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --target $(TARGET)

# The program is whole on disk before it takes the old one's place: a power cut in between must not cost a node its agent.
install:
	@test -f '$(BINARY)' || { \
	  echo "install compiles nothing, and there is no $(BINARY): run 'make' first, as an ordinary user, or name a program: BINARY=FILE" >&2; \
	  exit 1; }
	install -d '$(DESTDIR)$(bindir)' '$(DESTDIR)$(UNITDIR)/kubelet.service.d' '$(DESTDIR)/etc/default' '$(DESTDIR)/etc/ckpt-db' '$(DESTDIR)$(share)/doc/ckpt-db'
	install -m 0755 '$(BINARY)' '$(DESTDIR)$(bindir)/.ckpt-db.new'
	sync '$(DESTDIR)$(bindir)/.ckpt-db.new'
	mv -f '$(DESTDIR)$(bindir)/.ckpt-db.new' '$(DESTDIR)$(bindir)/ckpt-db'
	@set -e; for unit in dist/systemd/*; do \
	  to='$(DESTDIR)$(UNITDIR)'/"$${unit##*/}"; echo "install $$to"; \
	  sed 's|/usr/local/bin/|$(bindir)/|' "$$unit" >"$$to"; chmod 0644 "$$to"; \
	done
	install -m 0644 dist/kubelet.service.d/10-ckpt-db.conf '$(DESTDIR)$(UNITDIR)/kubelet.service.d/'
	@test -e '$(DESTDIR)/etc/default/ckpt-db' || install -m 0644 dist/ckpt-db.default '$(DESTDIR)/etc/default/ckpt-db'
	install -m 0644 $(examples) '$(DESTDIR)$(share)/doc/ckpt-db/'
	@set -e; for page in $(pages); do \
	  install -D -m 0644 "$$page" '$(DESTDIR)$(share)/man/man'"$${page##*.}/$${page##*/}"; \
	done
	@# What the program can't make here, for another architecture, does without.
	@completion() { \
	  install -d '$(DESTDIR)$(share)/'"$${2%/*}"; \
	  '$(abspath $(BINARY))' completion "$$1" >'$(DESTDIR)$(share)/'"$$2" 2>/dev/null || rm -f '$(DESTDIR)$(share)/'"$$2"; \
	}; \
	completion bash bash-completion/completions/ckpt-db; \
	completion zsh zsh/site-functions/_ckpt-db; \
	completion fish fish/vendor_completions.d/ckpt-db.fish
	@test -n '$(DESTDIR)' || ! test -d /run/systemd/system || systemctl daemon-reload
	@test -n '$(DESTDIR)' || echo "installed; nothing was started: systemctl enable --now ckpt-db"

uninstall:
	@dist/uninstall.sh
