package doctor

// checks are all checks, in the order of the report. Those with setup keep a
// setup from working: it asks them first.
var checks = []check{
	{"platform", true, platformCheck},
	{"kernel", true, kernel},
	{"memory", true, memory},
	{"memory-cgroup", true, memoryCgroup},
	{"swap", false, swap},
	{"clock-date", true, clockDate},
	{"clock-sync", false, clockSync},
	{"open-files", true, openFiles},
	{"processes-limit", false, processesLimit},

	{"fuse-device", true, fuseDevice},
	{"fuse-helper", true, fuseHelper},
	{"fuse-mount", true, fuseMount},
	{"fuse-others", false, fuseOthers},
	{"mountpoint", true, mountpoint},

	{"config", true, configCheck},
	{"config-keys", false, configKeys},
	{"config-mode", false, configMode},
	{"encryption-key", true, encryptionKey},
	{"secret-files", false, secretFiles},
	{"promises", false, promises},

	{"disk-writable", true, diskWritable},
	{"disk-space", true, diskSpace},
	{"disk-inodes", true, diskInodes},
	{"disk-type", false, diskType},
	{"disk-rename", true, diskRename},
	{"disk-speed", false, diskSpeed},
	{"disk-handing", true, diskHanding},

	{"folder-modes", false, folderModes},
	{"sockets", false, sockets},
	{"lock", true, lock},
	{"identity", false, identity},
	{"database", false, database},

	{"programs", false, programs},
	{"hook-program", false, hookProgram},
	{"installed-program", false, installedProgram},
	{"manager", false, manager},
	{"services", false, serviceStates},
	{"definitions", false, definitions},
	{"metrics-port", false, metricsPort},
	{"other-files", false, otherFiles},
	{"other-processes", false, otherProcesses},

	{"network-ipv6", false, networkIPv6},
	{"network-mycelium", false, networkMycelium},
	{"backend-answers", false, backendAnswers},
	{"backend-password", false, backendPassword},
	{"backend-mode", false, backendMode},
	{"backend-space", false, backendSpace},
	{"backend-hosts", false, backendHosts},
	{"backend-number", false, backendNumber},

	{"daemon", false, daemon},
	{"daemon-notes", false, daemonNotes},
	{"loss-window", false, lossWindow},
	{"queue", false, queue},
	{"checkpoint", false, checkpoint},
}
