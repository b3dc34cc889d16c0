//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/internal/testenv/machine"
	"github.com/threefoldtech/quantumd/qsfs/doctor"
)

// TestDoctorMachine is the doctor on a machine with a real systemd: before
// anything, on an installed system, and with that broken in several ways.
func TestDoctorMachine(t *testing.T) {
	t.Parallel()
	if os.Getenv("QUANTUMD_LONG") == "" {
		t.Skip("QUANTUMD_LONG is not set")
	}
	s := &machineStory{t: t, m: machine.Start(t, machine.Options{})}
	self := program(t)
	if bin := os.Getenv("QUANTUMD_BIN"); bin != "" {
		self = bin
	}
	s.m.Put("quantumd", self)
	s.libraries(self)

	r := s.doctor()
	assert.Empty(t, r.Problems(doctor.Problem), "a bare machine is ready")
	assert.Equal(t, "systemd", found(r, "manager")[0].Subject)
	s.quantumd("deploy", "--local")
	s.quantumd("setup")
	r = s.doctor()
	assert.Empty(t, r.Problems(doctor.Problem), "what setup installs is sound")
	for _, check := range []string{"services", "definitions", "installed-program", "folder-modes", "sockets", "config-mode", "secret-files", "mountpoint", "daemon", "other-files", "other-processes"} {
		for _, one := range found(r, check) {
			assert.Equal(t, doctor.OK, one.Severity, "%+v", one)
		}
	}

	for _, ill := range []struct {
		check, make, cure string
		severity          doctor.Severity
	}{
		{"definitions", "sed -i 's/^Restart=.*/Restart=no/' /etc/systemd/system/quantumd.service && systemctl daemon-reload", "/host/quantumd setup", doctor.Warning},
		{"services", "systemctl disable quantumd", "systemctl enable quantumd", doctor.Warning},
		{"services", "systemctl stop quantumd", "systemctl start quantumd", doctor.Warning},
		{"daemon", "systemctl stop quantumd", "systemctl start quantumd", doctor.Problem},
		{"config-mode", "chmod 644 /etc/quantumd.yaml", "chmod 600 /etc/quantumd.yaml", doctor.Problem},
		{"folder-modes", "chmod 777 /var/lib/quantumd", "chmod 700 /var/lib/quantumd", doctor.Problem},
		{"backend-answers", "systemctl stop qsfs-data0", "systemctl start qsfs-data0", doctor.Problem},
		{"other-files", "touch /etc/systemd/system/zstor.service", "rm /etc/systemd/system/zstor.service", doctor.Warning},
		{"installed-program", "chmod 777 /usr/local/bin/quantumd", "chmod 755 /usr/local/bin/quantumd", doctor.Problem},
	} {
		t.Run(ill.check+"/"+ill.make, func(t *testing.T) {
			s.m.Sh(ill.make)
			worst := doctor.Skipped
			for _, one := range found(s.doctor(), ill.check) {
				if one.Severity.Worse(worst) {
					worst = one.Severity
				}
			}
			assert.Equal(t, ill.severity, worst)
			s.m.Sh(ill.cure)
			s.m.Eventually(time.Minute, func() error {
				for _, one := range found(s.doctor(), ill.check) {
					if one.Severity.Worse(doctor.Note) {
						return errors.New(one.Cause)
					}
				}
				return nil
			}, "the remedy cures it")
		})
	}
}

// doctor asks the machine's doctor; its exit code follows from what it says.
func (s *machineStory) doctor() *doctor.Report {
	s.t.Helper()
	out, err := s.m.RunIn(nil, surroundings()[1:], "/host/quantumd", "doctor", "--json")
	var exit *machine.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(s.t, err)
	}
	r := new(doctor.Report)
	require.NoError(s.t, json.Unmarshal([]byte(out), r), out)
	code := 0
	if exit != nil {
		code = exit.Code
	}
	assert.Equal(s.t, map[doctor.Severity]int{doctor.Problem: exitFailed, doctor.Warning: exitDegraded}[r.Severity], code)
	return r
}

func found(r *doctor.Report, check string) []doctor.Result {
	var out []doctor.Result
	for _, one := range r.Results {
		if one.Check == check {
			out = append(out, one)
		}
	}
	return out
}
