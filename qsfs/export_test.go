package qsfs

// BeforeStep is asked before a replacement's next step is recorded: an error is
// a crash between what was done and its record.
func BeforeStep(f func(backend, step string) error) Option {
	return func(o *options) { o.beforeStep = f }
}
