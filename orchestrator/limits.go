package orchestrator

// Limits bound what a job may take of the engine's machine.
type Limits struct {
	Memory Amount // in bytes, what is written to /tmp included
	CPUs   Amount
	PIDs   int64 // processes and threads at once
}

// An Amount is so much of what a machine has.
type Amount struct {
	Fixed float64 // if it is not 0, this much
	Share float64 // else this share; 0.75 is three quarters
}

// of returns the amount for each of some jobs on a machine that has so much in all. Shares are of
// what each of them can have.
func (a Amount) of(total float64, jobs int) float64 {
	if a.Fixed == 0 {
		return a.Share * total / float64(jobs)
	}
	return min(a.Fixed, total)
}
