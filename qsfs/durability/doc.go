// Package durability tells before a deployment what a set of backends is worth:
// how much it holds, what may be lost of it, and how likely data is lost, for the
// data, for the metadata, and for both. It does no I/O and knows no provisioner:
// counts, sizes and rates go in, a [Report] comes out.
//
//	shape := durability.Shape{
//		Data: durability.Set{Needed: 16, Total: 20, Backends: 20},
//		Size: 1 << 40,
//	}
//	shape = shape.Sized(1 << 30) // how large each backend has to be
//	report, err := durability.Evaluate(shape, durability.DefaultRates())
//
// Backends that fail together, on one machine, in one farm or country, are given
// as [Group]s with counts. The figures are those of a Markov model, which
// [Report.Model] and [Report.Assumptions] describe in words. Wherever the model
// simplifies, it errs towards loss. It is no promise: what is not in it (a wrong
// command, a defect, a lost key, an account without money) loses data more often
// than many failures at a time.
package durability
