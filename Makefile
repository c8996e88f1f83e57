# Each target does its own set-up on a fresh Debian with Go and make.

GO ?= go
PREFIX ?= /usr/local
SBINDIR ?= /sbin
BINARY ?= bin/drivefs
OUT ?= bin
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS := -X github.com/drivefs/drivefs/cmd/drivefs/internal/version.tag=$(VERSION)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# What tests use besides Go; without the optional ones they skip and say so.
NEEDED := fuse3 gcc libc6-dev
OPTIONAL := rclone ffmpeg attr rsync sqlite3 git vim

.PHONY: all build demo test lint bench soak install install-files uninstall deb deb-file man fuse clean

all: build

build:
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/drivefs ./cmd/drivefs

# A drive of your own with sample files, mounted: make demo MOUNTPOINT=~/Drive
demo: build fuse
	@bin/drivefs demo $(MOUNTPOINT)

# fusermount3, and a /dev/fuse that ordinary users may open too.
fuse:
	@.ci/need fuse3
	@test -e /dev/fuse || { echo "there is no /dev/fuse: load the fuse module, or start the container with --device /dev/fuse" >&2; exit 1; }
	@if [ "$$(id -u)" = 0 ]; then chmod 666 /dev/fuse || true; fi

test: fuse
	@.ci/need $(NEEDED)
	@.ci/need -o $(OPTIONAL)
	@.ci/need -o systemd
	@.ci/need -o chromium
	$(GO) vet ./...
	$(GO) build ./...
	$(GO) test -race -timeout 13m ./...

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -d . ; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

# Speed, next to what is possible and, where it is installed, next to rclone
# mount; make bench BENCH='-size full' takes the sizes of the targets.
bench: fuse
	@.ci/need -o rclone
	$(GO) run ./integration/bench $(BENCH)

# The random tests at full length: an hour or so.
soak: fuse
	@.ci/need $(NEEDED)
	@.ci/need -o $(OPTIONAL)
	DRIVEFS_SOAK=1 $(GO) test -race -count 1 -timeout 4h ./...

# Program, mount helper, units, man pages, completions and the monitoring
# examples; DESTDIR and PREFIX as everywhere.
install: build fuse install-files

install-files:
	install -D -m 755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/drivefs
	install -d $(DESTDIR)$(SBINDIR)
	ln -sfn $(PREFIX)/bin/drivefs $(DESTDIR)$(SBINDIR)/mount.drivefs
	set -e; for scope in user system; do \
		install -d $(DESTDIR)$(PREFIX)/lib/systemd/$$scope; \
		sed 's|^\(Exec[A-Za-z]*=-\{0,1\}\)drivefs |\1$(PREFIX)/bin/drivefs |' cmd/drivefs/packaging/$$scope/drivefs@.service \
			>$(DESTDIR)$(PREFIX)/lib/systemd/$$scope/drivefs@.service; \
		chmod 644 $(DESTDIR)$(PREFIX)/lib/systemd/$$scope/drivefs@.service; done
	$(BINARY) man $(DESTDIR)$(PREFIX)/share/man
	$(BINARY) completion bash | install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/share/bash-completion/completions/drivefs
	$(BINARY) completion zsh | install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_drivefs
	$(BINARY) completion fish | install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/drivefs.fish
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/drivefs LICENSE README.md fs/SEMANTICS.md \
		cmd/drivefs/packaging/monitoring/grafana.json cmd/drivefs/packaging/monitoring/alerts.yml

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/drivefs $(DESTDIR)$(SBINDIR)/mount.drivefs \
		$(DESTDIR)$(PREFIX)/lib/systemd/user/drivefs@.service $(DESTDIR)$(PREFIX)/lib/systemd/system/drivefs@.service \
		$(DESTDIR)$(PREFIX)/share/man/man1/drivefs.1 $(DESTDIR)$(PREFIX)/share/man/man1/drivefs-*.1 \
		$(DESTDIR)$(PREFIX)/share/man/man8/mount.drivefs.8 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/drivefs \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_drivefs \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/drivefs.fish
	rm -rf $(DESTDIR)$(PREFIX)/share/doc/drivefs

# bin/drivefs_VERSION_ARCH.deb; its program needs no C library.
deb:
	CGO_ENABLED=0 $(MAKE) build
	$(MAKE) deb-file

deb-file:
	MAKE='$(MAKE)' BINARY='$(BINARY)' cmd/drivefs/packaging/deb '$(VERSION)' '$(OUT)'

# The manual, to be read in place: man -l bin/man/man1/drivefs.1
man: build
	$(BINARY) man bin/man

clean:
	rm -rf bin
