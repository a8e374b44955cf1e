package scale_test

import "testing"

// BenchmarkReports lets every worker report at least twice what it uses, and reports how many reports that were and by how many entries the log grew. Reports are
// kept in memory: it fails if the log grew each time of three. (Once, something else may have happened: a controller's periodic work.)
func BenchmarkReports(b *testing.B) {
	for range b.N {
		ctx := limited(b)
		var grew []uint64
		for range 3 {
			reports, commands, err := cluster.CommandsBesideReports(ctx, hollow())
			if err != nil {
				b.Fatal(err)
			}
			grew = append(grew, commands)
			if commands == 0 {
				b.ReportMetric(float64(reports), "reports")
				break
			}
		}
		if grew[len(grew)-1] != 0 {
			b.Fatalf("beside reports of %d workers the log grew by %v entries", hollow(), grew)
		}
		b.ReportMetric(float64(len(grew)), "attempts")
		b.ReportMetric(0, "ns/op")
	}
}
