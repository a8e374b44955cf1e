package containerd

import (
	"encoding/binary"
	goruntime "runtime"
)

// initProgram returns the first process of a shared process namespace as a static ELF executable. It ignores SIGCHLD, so that the
// kernel itself reaps every orphan, and pauses forever, until SIGKILL. A usual program would cost megabytes of memory per pod.
func initProgram() []byte {
	type arch struct {
		machine uint16
		code    []byte
	}
	arches := map[string]arch{
		"amd64": {62, []byte{
			0x48, 0x83, 0xec, 0x20, // sub rsp, 32             a struct sigaction
			0x48, 0xc7, 0x04, 0x24, 0x01, 0x00, 0x00, 0x00, // mov qword [rsp], 1      handler SIG_IGN
			0x31, 0xc0, // xor eax, eax
			0x48, 0x89, 0x44, 0x24, 0x08, // mov [rsp+8], rax        no flags
			0x48, 0x89, 0x44, 0x24, 0x10, // mov [rsp+16], rax       no restorer
			0x48, 0x89, 0x44, 0x24, 0x18, // mov [rsp+24], rax       empty mask
			0xb8, 0x0d, 0x00, 0x00, 0x00, // mov eax, 13             rt_sigaction
			0xbf, 0x11, 0x00, 0x00, 0x00, // mov edi, 17             SIGCHLD
			0x48, 0x89, 0xe6, // mov rsi, rsp
			0x31, 0xd2, // xor edx, edx
			0x41, 0xba, 0x08, 0x00, 0x00, 0x00, // mov r10d, 8             size of a signal set
			0x0f, 0x05, // syscall
			0xb8, 0x22, 0x00, 0x00, 0x00, // loop: mov eax, 34       pause
			0x0f, 0x05, // syscall
			0xeb, 0xf7, // jmp loop
		}},
		"arm64": {183, words(
			0xd10083ff, // sub sp, sp, #32
			0xd2800020, // mov x0, #1               handler SIG_IGN
			0xa9007fe0, // stp x0, xzr, [sp]
			0xa9017fff, // stp xzr, xzr, [sp, #16]
			0xd2800220, // mov x0, #17              SIGCHLD
			0x910003e1, // mov x1, sp
			0xd2800002, // mov x2, #0
			0xd2800103, // mov x3, #8
			0xd28010c8, // mov x8, #134             rt_sigaction
			0xd4000001, // svc #0
			0xd2800000, // loop: mov x0, #0         ppoll(0, 0, 0, 0) waits forever
			0xd2800001, // mov x1, #0
			0xd2800002, // mov x2, #0
			0xd2800003, // mov x3, #0
			0xd2800928, // mov x8, #73
			0xd4000001, // svc #0
			0x17fffffa, // b loop
		)},
	}
	a := arches[goruntime.GOARCH]
	const base, head = 0x400000, 64 + 56
	size := uint64(head + len(a.code))
	le := binary.LittleEndian
	b := []byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	b = le.AppendUint16(b, 2) // executable
	b = le.AppendUint16(b, a.machine)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, base+head) // entry
	b = le.AppendUint64(b, 64)        // program headers
	b = le.AppendUint64(b, 0)
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{64, 56, 1, 64, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(b, 1) // load
	b = le.AppendUint32(b, 5) // read and execute
	for _, v := range []uint64{0, base, base, size, size, 0x1000} {
		b = le.AppendUint64(b, v)
	}
	return append(b, a.code...)
}

func words(w ...uint32) []byte {
	var b []byte
	for _, v := range w {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}
