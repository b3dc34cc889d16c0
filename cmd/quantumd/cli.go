package main

const description = `One program for a QSFS: a file system whose data survives lost machines and untrusted ones.

Try it here, in one terminal:    quantumd up --local --dir /tmp/q --mount /tmp/m
Install it on this machine:      quantumd deploy --local && quantumd setup
With backends of your own:       quantumd deploy --config config.yaml && quantumd setup

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 degraded, 4 data lost, 5 fenced.`

// Globals are the flags of every command.
type Globals struct {
	Config   string            `short:"c" placeholder:"FILE" help:"Configuration. Else QUANTUMD_CONFIG, config.yaml in --dir, /etc/quantumd.yaml."`
	Dir      string            `placeholder:"DIR" help:"A self-contained system: everything that it owns lies below DIR."`
	Set      map[string]string `placeholder:"KEY=VALUE" help:"Set a key of the configuration; wins over environment and file."`
	JSON     bool              `name:"json" help:"Print results as JSON."`
	Yes      bool              `short:"y" help:"Do not ask."`
	DryRun   bool              `help:"Say what would be done, and change nothing."`
	LogLevel string            `enum:",debug,info,warn,error" default:"" help:"Least level that is logged (debug, info, warn, error); else log_level."`
	LogJSON  bool              `name:"log-json" help:"Log as JSON."`
	Root     string            `hidden:"" placeholder:"DIR" help:"Put DIR before every system path."`
}

type cli struct {
	Globals

	Daemon  daemonCmd  `cmd:"" default:"1" help:"Run the installed system in the foreground: what the service does. The default."`
	Up      upCmd      `cmd:"" help:"Bring up a whole system in the foreground; Ctrl-C ends it clean."`
	Demo    demoCmd    `cmd:"" help:"Show the main job on this machine, with faults and checks."`
	Plan    planCmd    `cmd:"" help:"What a set of backends would be worth: room, what may be lost, how likely it is."`
	Deploy  deployCmd  `cmd:"" help:"Make the backends, or complete them."`
	Setup   setupCmd   `cmd:"" help:"Install the program and its service on this machine."`
	Upgrade upgradeCmd `cmd:"" help:"Install this program over an older one, and restart what runs that."`
	Init    initCmd    `cmd:"" help:"deploy and setup in one."`
	Status  statusCmd  `cmd:"" help:"Is it up, is my data safe, what is being done about it?"`
	Sync    syncCmd    `cmd:"" help:"Return when all that was written is on the backends."`
	Restore restoreCmd `cmd:"" help:"Bring the file system to this machine from its backends."`
	Destroy destroyCmd `cmd:"" help:"Give the backends back; what they hold is lost."`
	Start   startCmd   `cmd:"" help:"Start the installed services."`
	Stop    stopCmd    `cmd:"" help:"Stop the system, after bringing what was written to the backends."`

	Restart   restartCmd   `cmd:"" help:"Stop and start the installed services."`
	Logs      logsCmd      `cmd:"" help:"What a service printed."`
	Supervise superviseCmd `cmd:"" help:"Run what setup installed in the foreground, where no service manager runs: as in a container."`
	Services  servicesCmd  `cmd:"" help:"List the installed services."`
	Queue     queueCmd     `cmd:"" help:"Files on their way to the backends."`
	Backends  backendsCmd  `cmd:"" help:"The backends in use."`
	Replace   replaceCmd   `cmd:"" help:"Replace backends: by others, with what they held made anew."`
	Check     checkCmd     `cmd:"" help:"Is everything on the backends, as the metadata says?"`
	Scrub     scrubCmd     `cmd:"" help:"Have the backends verify what they hold, and repair it."`
	Doctor    doctorCmd    `cmd:"" help:"What is wrong with this machine or system, why, and what to do."`
	Why       whyCmd       `cmd:"" help:"Where one path is: its files, shards, tries, and what comes next."`
	Evict     evictCmd     `cmd:"" help:"Drop local data files that are safe on the backends."`
	Wait      waitCmd      `cmd:"" help:"Wait until the system serves."`
	ConfigCmd configCmd    `cmd:"" name:"config" help:"The configuration: example, check, show."`
	Uninstall uninstallCmd `cmd:"" help:"Remove the services and programs that setup installed."`
	Hook      hookCmd      `cmd:"" passthrough:"" help:"What a zdb calls for each event."`
	Version   versionCmd   `cmd:"" help:"Print the version."`

	Binaries binariesCmd `cmd:"" help:"The programs of external components: wanted, installed, trusted."`

	Completion completionCmd `cmd:"" help:"Print what completes commands and flags in a shell."`

	Zdb   componentCmd `cmd:"" passthrough:"" help:"The embedded zdb, with the real one's arguments."`
	Zstor componentCmd `cmd:"" passthrough:"" help:"The embedded zstor, with the real one's arguments."`
	Zdbfs componentCmd `cmd:"" passthrough:"" help:"The embedded zdbfs, with the real one's arguments."`

	DemoFrontend demoFrontendCmd `cmd:"" hidden:"" help:"Part of the demo without a mount."`
	Drain        drainCmd        `cmd:"" hidden:"" help:"What runs before an external zdb is stopped."`
	Man          manCmd          `cmd:"" hidden:"" help:"Print the manual page."`
}
