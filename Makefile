# Each target does its own set-up on a fresh Debian with Go and make.

GO ?= go
PREFIX ?= /usr/local
# mount(8) looks for its helpers in /sbin only; below a prefix of your own
# nothing outside of it is touched.
SBINDIR ?= $(if $(filter /usr /usr/local,$(PREFIX)),/sbin,$(PREFIX)/sbin)
BINARY ?= bin/drivefs
DOCS ?= bin/docs
OUT ?= bin
VERSION := $(shell git -c safe.directory='*' describe --tags --always --dirty 2>/dev/null)
PACKAGE_VERSION ?= $(shell cmd/drivefs/packaging/version)
ARCH ?= $(shell $(GO) env GOARCH 2>/dev/null)
LDFLAGS := -X github.com/drivefs/drivefs/cmd/drivefs/internal/version.tag=$(VERSION)
BUILD := $(GO) build -trimpath -ldflags '$(LDFLAGS)'
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.1.4
CYCLONEDX := github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.9.0
export SOURCE_DATE_EPOCH ?= $(shell git -c safe.directory='*' log -1 --format=%ct 2>/dev/null)

# What tests use besides Go; without the optional ones they skip and say so.
NEEDED := fuse3 gcc libc6-dev
OPTIONAL := rclone ffmpeg attr rsync sqlite3 git vim

.PHONY: all build docs demo test lint vuln bench soak install uninstall deb rpm package release man fuse clean

all: build docs

build:
	$(BUILD) -o bin/drivefs ./cmd/drivefs

# The manual and the completions, from the verbs' own words. What makes them is
# not in the program.
docs:
	rm -rf $(DOCS)
	$(GO) run -tags docs -trimpath -ldflags '$(LDFLAGS)' ./cmd/drivefs docs $(DOCS)

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
	$(GO) test -race -timeout 25m ./...

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -d . ; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags docs ./cmd/drivefs
	@.ci/online $(GO) run $(STATICCHECK) ./...

# Known weaknesses of what is built in. The data base is asked for over the
# network; without one this says so and checks nothing.
vuln:
	@.ci/online $(GO) run $(GOVULNCHECK) ./...

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

# Copies what `make` has built, and does nothing else: program, mount helper,
# units, manual, completions and the monitoring examples.
install:
	@test -x $(BINARY) && test -d $(DOCS)/man || { echo "nothing is built yet: run make first, as yourself" >&2; exit 1; }
	install -D -m 755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/drivefs
	install -d $(DESTDIR)$(SBINDIR)
	ln -sfn $(PREFIX)/bin/drivefs $(DESTDIR)$(SBINDIR)/mount.drivefs
	set -e; for scope in user system; do \
		install -d $(DESTDIR)$(PREFIX)/lib/systemd/$$scope; \
		sed 's|^\(Exec[A-Za-z]*=-\{0,1\}\)drivefs |\1$(PREFIX)/bin/drivefs |' cmd/drivefs/packaging/$$scope/drivefs@.service \
			>$(DESTDIR)$(PREFIX)/lib/systemd/$$scope/drivefs@.service; \
		chmod 644 $(DESTDIR)$(PREFIX)/lib/systemd/$$scope/drivefs@.service; done
	set -e; for section in 1 5 8; do \
		install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man$$section $(DOCS)/man/man$$section/*; done
	install -D -m 644 $(DOCS)/drivefs.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/drivefs
	install -D -m 644 $(DOCS)/_drivefs $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_drivefs
	install -D -m 644 $(DOCS)/drivefs.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/drivefs.fish
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/drivefs LICENSE README.md fs/SEMANTICS.md \
		cmd/drivefs/packaging/monitoring/grafana.json cmd/drivefs/packaging/monitoring/alerts.yml

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/drivefs $(DESTDIR)$(SBINDIR)/mount.drivefs \
		$(DESTDIR)$(PREFIX)/lib/systemd/user/drivefs@.service $(DESTDIR)$(PREFIX)/lib/systemd/system/drivefs@.service \
		$(DESTDIR)$(PREFIX)/share/man/man1/drivefs.1 $(DESTDIR)$(PREFIX)/share/man/man1/drivefs-*.1 \
		$(DESTDIR)$(PREFIX)/share/man/man5/drivefs.toml.5 $(DESTDIR)$(PREFIX)/share/man/man8/mount.drivefs.8 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/drivefs \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_drivefs \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/drivefs.fish
	rm -rf $(DESTDIR)$(PREFIX)/share/doc/drivefs

# bin/drivefs_VERSION_ARCH.deb, drivefs-VERSION.ARCH.rpm; the program in them
# needs no C library.
deb rpm: docs
	CGO_ENABLED=0 $(BUILD) -o bin/static/drivefs ./cmd/drivefs
	@rm -f bin/*.$@
	@$(MAKE) -s package FORMAT=$@ BINARY=bin/static/drivefs

package:
	@MAKE='$(MAKE)' GO='$(GO)' BINARY='$(BINARY)' DOCS='$(DOCS)' cmd/drivefs/packaging/package '$(FORMAT)' '$(PACKAGE_VERSION)' '$(ARCH)' '$(OUT)'

# Everything of a release, in bin/release: static programs, packages, what they
# are made of (SBOM), checksums. The same commit makes the same files.
release: clean docs
	set -e; for arch in amd64 arm64; do \
		dir=bin/release/drivefs_$(PACKAGE_VERSION)_linux_$$arch; \
		CGO_ENABLED=0 GOARCH=$$arch $(BUILD) -o $$dir/drivefs ./cmd/drivefs; \
		cp -r LICENSE README.md bin/docs $$dir; \
		tar -C bin/release --sort=name --owner=0 --group=0 --mtime=@$(SOURCE_DATE_EPOCH) -c $${dir##*/} | gzip -9n >$$dir.tar.gz; \
		for format in deb rpm; do $(MAKE) -s package FORMAT=$$format ARCH=$$arch BINARY=$$dir/drivefs OUT=bin/release; done; \
		rm -r $$dir; done
	$(GO) run $(CYCLONEDX) app -json -licenses -noserial -output bin/release/drivefs_$(PACKAGE_VERSION).cdx.json -main cmd/drivefs .
	cd bin/release && sha256sum * >SHA256SUMS

# The manual, to be read in place: man -l bin/docs/man/man1/drivefs.1
man: docs

clean:
	rm -rf bin
