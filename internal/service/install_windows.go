package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/mgr"
)

// account is whom the service runs as: one that may use the network and little
// else. Pipes of virtual machines often want more.
const account = `NT AUTHORITY\LocalService`

func connect() (*mgr.Mgr, error) {
	m, err := mgr.Connect()
	if errors.Is(err, windows.ERROR_ACCESS_DENIED) {
		return nil, errors.New("Windows lets only administrators change services: start this from an elevated prompt")
	}
	return m, err
}

// Install registers the service and starts it. The text says what was done,
// also with an error.
func Install(ctx context.Context, s Spec) (string, error) {
	m, err := connect()
	if err != nil {
		return "", err
	}
	defer m.Disconnect()
	if old, err := m.OpenService(Name); err == nil {
		old.Close()
		return "", fmt.Errorf("a service %s is there already; kdsrv -uninstall removes it", Name)
	}
	args := append([]string{"-" + Option}, s.Args...)
	if s.PasswordFile != "" {
		args = append(args, "-passwordfile", s.PasswordFile)
	}
	h, err := m.CreateService(Name, s.Program, mgr.Config{
		DisplayName: description, StartType: mgr.StartAutomatic, ServiceStartName: account,
		Description: "Lets kernel debuggers on other machines use the lines of this one.",
	}, args...)
	if err != nil {
		return "", fmt.Errorf("the service was not made: %w", err)
	}
	defer h.Close()
	text := fmt.Sprintf("The service %s is made and starts with the machine, as %s.\n", Name, account)
	if s.PasswordFile != "" {
		text += fmt.Sprintf("It must be able to read the password: icacls \"%s\" /grant \"LOCAL SERVICE:R\"\n", s.PasswordFile)
	}
	text += "For pipes of virtual machines that it may not open, type: sc config " + Name + " obj= LocalSystem\n"
	// Twice after a failure; an end that was asked for is none.
	h.SetRecoveryActions([]mgr.RecoveryAction{
		{Type: mgr.ServiceRestart, Delay: 2 * time.Second}, {Type: mgr.ServiceRestart, Delay: 10 * time.Second},
	}, 24*60*60)
	err = h.Start()
	for deadline := time.Now().Add(within / 3); errors.Is(err, windows.ERROR_SERVICE_DATABASE_LOCKED) && time.Now().Before(deadline) && ctx.Err() == nil; {
		time.Sleep(500 * time.Millisecond) // another service is being started
		err = h.Start()
	}
	if err == nil {
		err = runs(ctx, h)
	}
	if err != nil {
		return text, fmt.Errorf("it is not started: %w; when the reason is gone, type: sc start %s", err, Name)
	}
	return text + "It runs. Its log: " + logFile() + "\n", nil
}

// runs waits until the service serves.
func runs(ctx context.Context, h *mgr.Service) error {
	for deadline := time.Now().Add(within / 3); ; time.Sleep(200 * time.Millisecond) {
		switch st, err := h.Query(); {
		case err != nil:
			return err
		case st.State == svc.Running:
			return nil
		case st.State == svc.Stopped:
			return fmt.Errorf("it ended again at once; %s says why", logFile())
		case ctx.Err() != nil || time.Now().After(deadline):
			return errors.New("it does not come up")
		}
	}
}

// Uninstall stops the service and removes it.
func Uninstall(ctx context.Context) (string, error) {
	m, err := connect()
	if err != nil {
		return "", err
	}
	defer m.Disconnect()
	h, err := m.OpenService(Name)
	if err != nil {
		return "", fmt.Errorf("no service is installed: %w", err)
	}
	defer h.Close()
	st, err := h.Control(svc.Stop)
	for deadline := time.Now().Add(within); err == nil && st.State != svc.Stopped && time.Now().Before(deadline) && ctx.Err() == nil; {
		time.Sleep(200 * time.Millisecond)
		st, err = h.Query()
	}
	if err := h.Delete(); err != nil {
		return "", fmt.Errorf("the service was not removed: %w", err)
	}
	return fmt.Sprintf("The service %s is removed.\n", Name), nil
}
