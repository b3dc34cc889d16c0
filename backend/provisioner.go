package backend

import "context"

// Spec asks for one backend.
type Spec struct {
	ID        string
	Role      Role
	Namespace string // empty: the provisioner chooses
	Password  Secret // empty: the provisioner chooses
	Size      int64  // bytes; zero: no limit
	Group     string
}

// Action is what a Plan would do about one Spec.
type Action string

const (
	Keep   Action = "keep"   // exists and fits
	Create Action = "create" // does not exist yet
	Start  Action = "start"  // exists, and must be started again
)

// Step is one line of a Plan.
type Step struct {
	Spec   Spec   `json:"-"`
	ID     string `json:"id"`
	Role   Role   `json:"role"`
	Action Action `json:"action"`
	Detail string `json:"detail,omitempty"`
}

// Result is what became of one Spec: a Backend, or an error.
type Result struct {
	Spec    Spec
	Backend Backend
	Err     error
}

// Provisioner makes backends, finds them again and gives them back.
type Provisioner interface {
	// List finds the backends that exist, whether they answer or not.
	List(ctx context.Context) ([]Backend, error)
	// Plan says what Provision would do, and changes nothing.
	Plan(ctx context.Context, specs []Spec) ([]Step, error)
	// Provision makes sure that each Spec has its backend, running. It is
	// idempotent by Spec.ID: a second call completes what the first could not.
	// There is one Result per Spec, in order; the error tells of a failure that
	// concerns all of them.
	Provision(ctx context.Context, specs []Spec) ([]Result, error)
	// Retire gives backends back; what they hold is lost. Unknown ids are no error.
	Retire(ctx context.Context, ids ...string) error
	// Health looks at one backend. What is wrong with it is in Health.Err.
	Health(ctx context.Context, b Backend) Health
}
