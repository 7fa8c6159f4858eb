// Runs one task, prints its output live, then says how it ended.
//
//	mayfly-run [-t TEMPLATE] [-memory BYTES] [-wall-time 2s] -c 'print(6*7)' [ARG...]
//	mayfly-run -t shell -- bash -c 'echo $((6*7))'
//
// An example of a client in Go: run.go has the code that is specific to Mayfly.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"mayfly/schema"
)

const (
	defaultSocket = "/run/mayfly/default.sock"
	exitMayfly    = 125 // like `mayfly`: an error of Mayfly itself
	exitKilled    = 137 // the task was killed
)

func main() {
	code, err := mayflyRun(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "mayfly-run:", err)
		var refused *Error
		if errors.As(err, &refused) && refused.Advice != "" {
			fmt.Fprintln(os.Stderr, "  ", refused.Advice)
		}
	}
	os.Exit(code)
}

func mayflyRun(args []string) (int, error) {
	flags := flag.NewFlagSet("mayfly-run", flag.ExitOnError)
	socket := flags.String("socket", os.Getenv("MAYFLY_SOCKET"), "the daemon's socket")
	template := flags.String("t", "python", "what the box is made from")
	code := flags.String("c", "", "the program itself; without it the arguments are a command")
	memory := flags.Uint64("memory", 0, "memory cap in bytes; 0: the template's default")
	wallTime := flags.Duration("wall-time", 0, "wall time cap; 0: the template's default")
	flags.DurationVar(wallTime, "timeout", 0, "the same as -wall-time")
	traceparent := flags.String("traceparent", "", "the caller's W3C trace context")
	_ = flags.Parse(args) // exits itself
	if *socket == "" {
		*socket = defaultSocket
	}

	// Ctrl-C cancels the task; its result still comes.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	client, err := Connect(context.Background(), *socket)
	if err != nil {
		return exitMayfly, err
	}
	defer client.Close()

	result, err := client.Run(ctx, Task{
		Template:    *template,
		Code:        *code,
		Args:        flags.Args(),
		MemoryBytes: *memory,
		WallTime:    *wallTime,
		Traceparent: *traceparent,
	}, func(stream schema.Stream, data []byte) error {
		to := os.Stdout
		if stream == schema.Stream_stderr {
			to = os.Stderr
		}
		_, err := to.Write(data)
		return err
	})
	if err != nil {
		return exitMayfly, err
	}
	fmt.Fprintf(os.Stderr, "mayfly-run: %s: %s | %s, peak %d KiB | box %d gone: %t\n", result.Verdict,
		result.Reason, result.Wall.Round(10*time.Microsecond), result.MemoryPeakBytes>>10, result.Box,
		result.BoxGone)
	switch result.Verdict {
	case schema.Verdict_succeeded, schema.Verdict_failed:
		return int(result.ExitCode), nil
	default:
		return exitKilled, nil
	}
}
