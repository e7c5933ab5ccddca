package orchestrator

// Limits are the most that a job may use of the engine's machine.
type Limits struct {
	Memory Amount // in bytes, including files in /tmp
	CPUs   Amount
	PIDs   int64 // processes and threads at once
}

const (
	// LeastMemory is what a job's container needs to start, in bytes.
	LeastMemory = 64 << 20
	// LeastCPUs is the smallest number of CPUs that engines accept as a limit.
	LeastCPUs = 0.01
)

// memory returns the memory of one job, in bytes. total is what the machine has, and jobs is how many jobs run at once.
func (l Limits) memory(total int64, jobs int) int64 {
	return int64(max(LeastMemory, l.Memory.of(float64(total), jobs)))
}

// cpus returns the number of CPUs of one job. total is what the machine has, and jobs is how many jobs run at once.
func (l Limits) cpus(total, jobs int) float64 {
	return max(LeastCPUs, l.CPUs.of(float64(total), jobs))
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
