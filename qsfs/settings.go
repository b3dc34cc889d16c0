package qsfs

import "github.com/threefoldtech/quantumd/qsfs/config"

// settings is the configuration as it is now: a reload changes some keys while
// the system runs. Code that reads one of them asks here each time.
func (s *System) settings() *config.Config {
	if c := s.live.Load(); c != nil {
		return c
	}
	return s.cfg
}
