package local

import (
	"github.com/threefoldtech/quantumd/services"
)

// ServicePrefix begins the name of each backend's service.
const ServicePrefix = "qsfs-"

// Services describes the backends below the folder as services of a service
// manager. program and args stand before zdb's own arguments, as in [Command].
func (p *Provisioner) Services(program string, args ...string) ([]services.Service, error) {
	instances, err := loadAll(p.dir)
	if err != nil {
		return nil, err
	}
	var out []services.Service
	for _, i := range instances {
		out = append(out, services.Service{
			Name:        ServicePrefix + i.ID,
			Description: "QSFS local backend " + i.ID,
			Exec:        append(append([]string{program}, args...), zdbArgs(i)...),
			Dir:         i.Dir,
			Writable:    []string{i.Dir},
			SuccessExit: []int{130, 143}, // zdb ends so after a signal
		})
	}
	return out, nil
}
