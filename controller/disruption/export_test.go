package disruption

// NewWithClock is New with a clock.
var NewWithClock = newControllers
