package app

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// notifySystemd tells systemd, if it runs cridock, that the first sync is done, and
// later that ctx has ended.
func notifySystemd(ctx context.Context, ready <-chan struct{}) error {
	select {
	case <-ready:
		if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
			return fmt.Errorf("notify systemd: %w", err)
		}
		<-ctx.Done()
	case <-ctx.Done():
	}
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping) // systemd sees the exit anyway
	return nil
}

// tellSystemd sends a message to systemd, if it runs cridock. A failure is only
// logged: cridock can serve without systemd's attention.
func tellSystemd(ctx context.Context, message string) {
	if _, err := daemon.SdNotify(false, message); err != nil {
		state, _, _ := strings.Cut(message, "\n")
		klog.FromContext(ctx).Error(err, "Cannot notify systemd", "message", state)
	}
}

// watchdog tells systemd that this process is alive, if the unit has WatchdogSec: it
// answers a call on its socket, and nothing holds the lock of its index. Docker may
// be away meanwhile: a restart of cridock would not bring it back.
func watchdog(ctx context.Context, socket string, health func() error) error {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("systemd's watchdog: %w", err)
	}
	if interval == 0 {
		return nil
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("systemd's watchdog: %w", err)
	}
	defer func() { _ = conn.Close() }()
	client := runtimeapi.NewRuntimeServiceClient(conn)
	ticker := time.NewTicker(interval / 2)
	defer ticker.Stop()
	for {
		if err := answers(ctx, client, interval/2); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "No answer on cridock's own socket; systemd restarts cridock if that lasts", "watchdog", interval)
		} else if ctx.Err() == nil {
			_ = health() // whether it returns is the question
			tellSystemd(ctx, daemon.SdNotifyWatchdog)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// answers makes a call that needs neither Docker nor any lock.
func answers(ctx context.Context, client runtimeapi.RuntimeServiceClient, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_, err := client.Version(ctx, &runtimeapi.VersionRequest{})
	return err
}
