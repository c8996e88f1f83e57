package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/logs"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/show"
	"github.com/drivefs/drivefs/drive/drivetest"
)

func newServe(p *program) *cobra.Command {
	var tokenFile string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "A local drive that speaks the Amazon Drive API, kept in a directory",
		Long: "Serve a drive of your own on this machine: the Amazon Drive API over a directory, for trying\n" +
			"things out and for tests. Its endpoint is the first line printed; Ctrl-C ends it.\n\n" +
			"Who wants a token, or to change what goes wrong (POST /admin/faults), needs the secret of the data\n" +
			"directory, which stands in its file \"secret\". Beyond loopback it serves https only.",
		Example: "  drivefs serve --listen 127.0.0.1:8300 --token-file /tmp/token.json\n" +
			"  drivefs mount --endpoint http://127.0.0.1:8300/drive/v1/ --token-file /tmp/token.json ~/Drive",
		Args: takes(0),
	}
	flags := config.Register(cmd.Flags(), config.Serve|config.Logging)
	// A flag and nothing else: the variable and the key name the token of an
	// account, which must not be overwritten.
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "write a token of this drive to `FILE`, for mount --token-file")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := flags.Load(p.env)
		if err != nil {
			return err
		}
		if err := runServe(cmd.Context(), p, c, tokenFile); err != nil {
			return fmt.Errorf("serve: %w", err)
		}
		return nil
	}
	return cmd
}

func runServe(ctx context.Context, p *program, c *config.Config, tokenFile string) (err error) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	log, closeLog, err := logs.Open(c, p.stderr)
	if err != nil {
		return err
	}
	defer closeLog()
	s, err := startService(c, log)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := s.Close(); err == nil {
			err = cerr
		}
	}()
	if c.Import != "" {
		if err := s.Import(c.Import); err != nil {
			return fmt.Errorf("--import %s: %w", c.Import, err)
		}
	}
	var hints strings.Builder
	if tokenFile != "" {
		if err := os.MkdirAll(filepath.Dir(tokenFile), 0o700); err != nil {
			return err
		}
		if err := s.WriteToken(tokenFile); err != nil {
			return fmt.Errorf("--token-file %s: %w", tokenFile, err)
		}
		fmt.Fprintf(&hints, "mount it: %s mount %s --token-file %s MOUNTPOINT\n", p.name, serveAccount(s), show.Quote(tokenFile))
	}
	fmt.Fprintf(&hints, "log in to it: %s login %s --auth-url %s\n", p.name, serveAccount(s), show.Quote(s.AuthURL()))
	// One write: who reads only the first line may close the pipe after it.
	if _, err := fmt.Fprintf(p.stdout, "%s\n%s", s.Endpoint(), hints.String()); err != nil {
		return err
	}
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
	<-ctx.Done()
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	return nil
}

// serveAccount are the flags that lead to the drive. On loopback the program
// knows the rest by itself.
func serveAccount(s *drivetest.Server) string {
	flags := "--endpoint " + s.Endpoint()
	if strings.HasPrefix(s.Endpoint(), "https:") {
		flags += fmt.Sprintf(" --token-url %s --client-id %s --client-secret %s", s.TokenURL(), s.ClientID(), s.ClientSecret())
	}
	return flags
}

// startService starts the drive in c.Data.
func startService(c *config.Config, log *slog.Logger) (*drivetest.Server, error) {
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return nil, fail(exitUsage, "--tls-cert and --tls-key: one is of no use without the other")
	}
	o := drivetest.Options{Dir: c.Data, Listen: c.Listen, TLSCert: c.TLSCert, TLSKey: c.TLSKey, BaseURL: c.PublicURL, Logger: log}
	if c.Faults != "" {
		text := []byte(c.Faults)
		if !strings.HasPrefix(strings.TrimSpace(c.Faults), "{") {
			var err error
			if text, err = os.ReadFile(c.Faults); err != nil {
				return nil, fail(exitUsage, "--faults: %w", err)
			}
		}
		var err error
		if o.Faults, err = drivetest.ParseFaults(text); err != nil {
			return nil, fail(exitUsage, "--faults: %w", err)
		}
	}
	s, err := drivetest.Start(o)
	if errors.Is(err, drivetest.ErrPlainListen) {
		return nil, fail(exitUsage, "--listen %s: %w: give --tls-cert and --tls-key, or let a proxy with TLS stand before it (--public-url)", c.Listen, drivetest.ErrPlainListen)
	}
	if err != nil {
		return nil, fmt.Errorf("starting the drive in %s: %w", c.Data, err)
	}
	return s, nil
}
