package systemd

import (
	"slices"
	"strings"

	"github.com/threefoldtech/quantumd/services"
)

// hardening confines a service. What `systemd-analyze security` thinks of it is
// under test.
//
// None may change whom a file belongs to, its identity or its priority, and what
// it is not to do fails with EPERM instead of ending it: a library that only
// tries goes on. CAP_DAC_OVERRIDE is left, for data may have come with another
// owner from another machine. ProtectProc is not among it: without it a daemon
// sees whether what it started before it was a service still runs.
func (u *unit) hardening(s services.Service) {
	for _, key := range []string{
		"NoNewPrivileges", "LockPersonality", "RestrictRealtime", "RestrictSUIDSGID", "RestrictNamespaces", "MemoryDenyWriteExecute", "ProtectClock", "ProtectHostname",
	} {
		u.set(key, "true")
	}
	u.set("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK")
	u.set("DevicePolicy", "closed")
	u.set("SystemCallArchitectures", "native")
	u.set("SystemCallErrorNumber", "EPERM")
	u.set("SystemCallFilter", "@system-service")
	u.set("SystemCallFilter", "~@privileged @resources")
	u.set("LimitCORE", "0") // keys are in memory
	if s.Mountpoint != "" {
		u.mounting()
		return
	}
	u.confined(s)
}

// mounting is for a service that mounts a FUSE file system. It must not get a
// mount namespace of its own: the unit would be active, and the host would see
// an empty folder. So it gets none of the options that make one (ProtectSystem,
// ProtectHome, PrivateTmp, ReadWritePaths, ProtectKernel*, ProtectControlGroups,
// ProtectProc); each was measured with systemd 252.
func (u *unit) mounting() {
	u.set("PrivateMounts", "no")
	u.set("DeviceAllow", "/dev/fuse rw")
	u.set("SystemCallFilter", "mount umount umount2")
	u.set("CapabilityBoundingSet", "CAP_SYS_ADMIN CAP_DAC_OVERRIDE")
}

// confined is for all others: they write only where they say, and see what
// others mount.
func (u *unit) confined(s services.Service) {
	u.set("CapabilityBoundingSet", "CAP_DAC_OVERRIDE")
	for _, key := range []string{"PrivateDevices", "PrivateMounts", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups"} {
		u.set(key, "true")
	}
	u.set("ProtectSystem", "strict")
	paths := slices.Concat(s.Writable, []string{s.Dir}, s.Exec[:1])
	for _, c := range s.Credentials {
		paths = append(paths, c.Path)
	}
	if !below(paths, "/home/", "/root/", "/run/user/") { // they would be hidden
		u.set("ProtectHome", "true")
	}
	if !below(paths, "/tmp/", "/var/tmp/") {
		u.set("PrivateTmp", "true")
	}
	writable := slices.Clone(s.Writable)
	if s.RuntimeDir != "" {
		writable = append(writable, "/run/"+s.RuntimeDir)
	}
	u.paths("ReadWritePaths", "-", writable) // `-`: a missing folder would prevent the start
}

// below says whether a path is, or is below, one of the folders.
func below(paths []string, folders ...string) bool {
	return slices.ContainsFunc(paths, func(p string) bool {
		return slices.ContainsFunc(folders, func(f string) bool { return strings.HasPrefix(p+"/", f) })
	})
}
