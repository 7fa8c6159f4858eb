// The example against a real daemon: `./dev test go` starts one and sets MAYFLY_SOCKET.

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"mayfly/schema"
)

func connect(t *testing.T) *Client {
	t.Helper()
	socket := os.Getenv("MAYFLY_SOCKET")
	if socket == "" {
		t.Fatal("no daemon: run this by `./dev test go`")
	}
	client, err := Connect(context.Background(), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func discard(schema.Stream, []byte) error { return nil }

func TestOutputComesWhileTheTaskRuns(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// The task never ends by itself: the output read here is live.
	code := "import sys, time\nprint('out', flush=True)\nprint('err', file=sys.stderr, flush=True)\ntime.sleep(600)"
	got := map[schema.Stream]string{}
	result, err := connect(t).Run(ctx, Task{Template: "python", Code: code},
		func(stream schema.Stream, data []byte) error {
			got[stream] += string(data)
			if len(got) == 2 {
				cancel()
			}
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	if got[schema.Stream_stdout] != "out\n" || got[schema.Stream_stderr] != "err\n" {
		t.Errorf("output %q", got)
	}
	if result.Verdict != schema.Verdict_cancelled || !result.BoxGone {
		t.Errorf("result %+v", result)
	}
}

func TestLargeOutputIsWhole(t *testing.T) {
	var got bytes.Buffer
	result, err := connect(t).Run(context.Background(),
		Task{Template: "python", Code: "import sys; sys.stdout.write('x' * 4000000)"},
		func(_ schema.Stream, data []byte) error {
			got.Write(data)
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	if result.Verdict != schema.Verdict_succeeded || got.Len() != 4000000 ||
		strings.Trim(got.String(), "x") != "" {
		t.Errorf("result %+v, %d bytes", result, got.Len())
	}
}

func TestVerdicts(t *testing.T) {
	client := connect(t)
	for _, c := range []struct {
		task Task
		want schema.Verdict
		exit int32
	}{
		{Task{Template: "python", Code: "pass"}, schema.Verdict_succeeded, 0},
		{Task{Template: "python", Code: "raise SystemExit(3)"}, schema.Verdict_failed, 3},
		{Task{Template: "shell", Args: []string{"sh", "-c", "exit 4"}}, schema.Verdict_failed, 4},
		{Task{Template: "shell", Args: []string{"sh", "-c", "kill -9 $$"}}, schema.Verdict_signaled, 0},
		{Task{Template: "python", Code: "import time; time.sleep(600)", WallTime: 200 * time.Millisecond},
			schema.Verdict_wallTime, 0},
		{Task{Template: "python", Code: "b = b'x' * (256 << 20)", MemoryBytes: 48 << 20},
			schema.Verdict_memory, 0},
	} {
		result, err := client.Run(context.Background(), c.task, discard)
		if err != nil {
			t.Fatal(err)
		}
		if result.Verdict != c.want || result.ExitCode != c.exit || !result.BoxGone || result.Reason == "" {
			t.Errorf("%+v gave %+v", c.task, result)
		}
	}
}

func TestErrorsAreTyped(t *testing.T) {
	client := connect(t)
	for template, want := range map[string]schema.ErrorCode{
		"no-such": schema.ErrorCode_notFound,
		"python":  schema.ErrorCode_invalidArgument, // runs no command lines
	} {
		_, err := client.Run(context.Background(), Task{Template: template, Args: []string{"x"}}, discard)
		var refused *Error
		if !errors.As(err, &refused) || refused.Code != want || refused.Message == "" {
			t.Errorf("%s: %v", template, err)
		}
	}
}

func TestAnErrorOfTheSinkCancelsTheTask(t *testing.T) {
	result, err := connect(t).Run(context.Background(),
		Task{Template: "python", Code: "import time\nprint('x', flush=True)\ntime.sleep(600)"},
		func(schema.Stream, []byte) error { return errors.New("enough") })
	if err != nil || result.Verdict != schema.Verdict_cancelled {
		t.Errorf("%+v, %v", result, err)
	}
}

func TestATraceContextGoesWithATask(t *testing.T) {
	client := connect(t)
	task := Task{Template: "python", Code: "pass", Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203333-01"}
	result, err := client.Run(context.Background(), task, discard)
	if err != nil || result.Verdict != schema.Verdict_succeeded {
		t.Errorf("%+v, %v", result, err)
	}
	if path := os.Getenv("MAYFLY_DAEMON_LOG"); path != "" {
		// The task's line is written before its result is sent.
		log, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(log), "trace="+task.Traceparent) {
			t.Errorf("no line with the context: %v", err)
		}
	}
	task.Traceparent = "x"
	_, err = client.Run(context.Background(), task, discard)
	var refused *Error
	if !errors.As(err, &refused) || refused.Code != schema.ErrorCode_invalidArgument ||
		!strings.Contains(refused.Message, "traceparent: 'x' is no W3C trace context") {
		t.Errorf("%v", err)
	}
}

func TestManyTasksAtOnce(t *testing.T) {
	client := connect(t)
	var all sync.WaitGroup
	for i := 0; i < 50; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			var got bytes.Buffer
			result, err := client.Run(context.Background(), Task{Template: "python", Code: "print(6*7)"},
				func(_ schema.Stream, data []byte) error {
					got.Write(data)
					return nil
				})
			if err != nil || result.Verdict != schema.Verdict_succeeded || got.String() != "42\n" {
				t.Errorf("%+v, %v, %q", result, err, got.String())
			}
		}()
	}
	all.Wait()
}

func TestALostConnectionIsAnError(t *testing.T) {
	client := connect(t)
	_, err := client.Run(context.Background(),
		Task{Template: "python", Code: "import time\nprint('up', flush=True)\ntime.sleep(600)"},
		func(schema.Stream, []byte) error {
			go client.Close()
			return nil
		})
	if err == nil {
		t.Error("a result without a connection")
	}
}

func TestProgramPrintsOutputAndVerdict(t *testing.T) {
	program := os.Getenv("MAYFLY_GO_PROGRAM")
	if program == "" {
		t.Fatal("MAYFLY_GO_PROGRAM is not set: run this by `./dev test go`")
	}
	var out, err bytes.Buffer
	command := exec.Command(program, "-t", "shell", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
	command.Stdout, command.Stderr = &out, &err
	_ = command.Run()
	said := err.String()
	if command.ProcessState.ExitCode() != 7 || out.String() != "out\n" ||
		!strings.HasPrefix(said, "err\n") || !strings.Contains(said, "failed: ") {
		t.Errorf("exit %d\n%s%s", command.ProcessState.ExitCode(), out.String(), said)
	}
}
