package grid

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/threefoldtech/quantumd/backend"
)

// maxName is how long the grid lets a deployment's name be.
const maxName = 36

var nameRule = regexp.MustCompile(`^[a-zA-Z0-9]+$`)

// CheckName says whether a deployment can bear a name: letters and digits, for `_`
// separates the parts of a contract's name and the grid takes no `-`; and short
// enough for the twin, the role and the node to follow.
func CheckName(deployment string) error {
	const longest = maxName - len("_4294967295_meta_4294967295")
	switch {
	case !nameRule.MatchString(deployment):
		return &Error{Kind: ErrName, Msg: fmt.Sprintf("%q", deployment), Remedy: "use letters and digits alone for deployment_name"}
	case len(deployment) > longest:
		return &Error{Kind: ErrName, Msg: fmt.Sprintf("%q has more than %d characters", deployment, longest), Remedy: "choose a shorter deployment_name"}
	}
	return nil
}

// contractName is that of the reference, so that its deployments are found:
// `<deployment>_<twin>_<meta|data>_<node>`.
func contractName(deployment string, twin uint32, role backend.Role, node uint32) string {
	return fmt.Sprintf("%s_%d_%s_%d", deployment, twin, role, node)
}

// parseName gives the role and the node of a name of ours; false for others.
func parseName(name, deployment string, twin uint32) (role backend.Role, node uint32, ok bool) {
	parts := strings.Split(name, "_")
	if len(parts) != 4 || parts[0] != deployment || parts[1] != strconv.FormatUint(uint64(twin), 10) {
		return "", 0, false
	}
	role = backend.Role(parts[2])
	n, err := strconv.ParseUint(parts[3], 10, 32)
	return role, uint32(n), err == nil && (role == backend.Meta || role == backend.Data)
}

// project says on the chain which backend a contract is, so that it has the same
// id on any machine.
func project(deployment, id string) string { return "qsfs/" + deployment + "/" + id }

// idOf gives the id of a contract's backend: what its project says, else, where
// another program made it, one that only this contract can have.
func idOf(deployment string, role backend.Role, c Contract) string {
	if id, ok := strings.CutPrefix(c.Project, project(deployment, "")); ok && strings.HasPrefix(id, string(role)) && idRule.MatchString(id) {
		return id
	}
	return fmt.Sprintf("%s-c%d", role, c.ID)
}

// An id may be that of a contract which another program made: the backend that
// takes its place has it too.
var idRule = regexp.MustCompile(`^(meta|data)(-c)?[0-9]{1,19}$`)

// check says whether a backend can be rented, so that it is found again.
func (p *Provisioner) check(s backend.Spec) error {
	if s.Role != backend.Meta && s.Role != backend.Data || !strings.HasPrefix(s.ID, string(s.Role)) || !idRule.MatchString(s.ID) {
		return &Error{Kind: ErrName, Msg: fmt.Sprintf("%q for a backend with the role %q", s.ID, s.Role), Remedy: "call backends data0, data1 and so on, or meta0, meta1 and so on"}
	}
	if p.sizeOf(s) == 0 {
		return ErrNoSize
	}
	return nil
}
