package orchestrator

// Limits are the most that a job may use of the engine's machine.
type Limits struct {
	Memory Amount // in bytes, including files in /tmp
	CPUs   Amount
	PIDs   int64 // processes and threads at once
}

// An Amount is a part of a machine's memory or processors.
type Amount struct {
	Fixed float64 // if it is not 0, a fixed amount
	Share float64 // otherwise a share; 0.75 is three quarters
}

// of returns the amount for one job. total is what the machine has, and jobs is how many jobs run at once. A share
// is a share of total/jobs.
func (a Amount) of(total float64, jobs int) float64 {
	if a.Fixed == 0 {
		return a.Share * total / float64(jobs)
	}
	return min(a.Fixed, total)
}
