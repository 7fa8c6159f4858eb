// A client of Mayfly over go-capnp: connect, submit, live output, wait, close.
//
// Two rules of the protocol: every answer has a field `error`, and an exception only means that the
// transport failed; the end of a task is never an error, but its verdict.

package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"capnproto.org/go/capnp/v3/rpc"

	"mayfly/schema"
)

// Error is the error field of the daemon's answer.
type Error struct {
	Code            schema.ErrorCode
	Message, Advice string
	Retryable       bool
	RetryAfter      time.Duration
}

func (e *Error) Error() string { return fmt.Sprintf("%s (%s)", e.Message, e.Code) }

// An answer's error field as a Go error; nil if the call succeeded.
func refusal(e schema.Error, err error) error {
	if err != nil {
		return err
	}
	if e.Code() == schema.ErrorCode_ok {
		return nil
	}
	message, err := e.Message_()
	if err != nil {
		return err
	}
	advice, err := e.Advice()
	if err != nil {
		return err
	}
	return &Error{e.Code(), message, advice, e.Retryable(),
		time.Duration(e.RetryAfterMs()) * time.Millisecond}
}

// Client is a connection. Its tasks end with it.
type Client struct {
	conn    *rpc.Conn
	mayfly  schema.Mayfly
	Version string // of the daemon
}

func Connect(ctx context.Context, socket string) (*Client, error) {
	stream, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	conn := rpc.NewConn(rpc.NewStreamTransport(stream), nil)
	client := &Client{conn: conn, mayfly: schema.Mayfly(conn.Bootstrap(ctx))}
	if err := client.hello(ctx); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

func (c *Client) hello(ctx context.Context) error {
	future, release := c.mayfly.Hello(ctx, func(p schema.Mayfly_hello_Params) error {
		p.SetProtocol(schema.ProtocolVersion)
		return p.SetClient("go")
	})
	defer release()
	answer, err := future.Struct()
	if err != nil {
		return err
	}
	if err := refusal(answer.Error()); err != nil {
		return err
	}
	info, err := answer.Info()
	if err != nil {
		return err
	}
	c.Version, err = info.Version()
	return err
}

func (c *Client) Close() error {
	c.mayfly.Release()
	return c.conn.Close()
}

// Task describes a task. Zero values take the template's defaults.
type Task struct {
	Template    string
	Code        string // the program; if empty, Args is a whole command line
	Args        []string
	MemoryBytes uint64
	WallTime    time.Duration
	Traceparent string // the caller's W3C trace context, for the daemon's lines and the audit
}

func (t Task) put(spec schema.TaskSpec) error {
	if err := spec.SetTemplate(t.Template); err != nil {
		return err
	}
	if t.Code == "" {
		spec.Code().SetCommand()
	} else if err := spec.Code().SetString_([]byte(t.Code)); err != nil {
		return err
	}
	args, err := spec.NewArgs(int32(len(t.Args)))
	if err != nil {
		return err
	}
	for i, arg := range t.Args {
		if err := args.Set(i, arg); err != nil {
			return err
		}
	}
	limits, err := spec.NewLimits()
	if err != nil {
		return err
	}
	if t.MemoryBytes > 0 {
		limits.SetMemoryBytes(t.MemoryBytes)
	}
	if t.WallTime > 0 {
		limits.SetWallTimeMs(uint64(t.WallTime.Milliseconds()))
	}
	return nil
}

// Result is how a task ended.
type Result struct {
	Verdict         schema.Verdict
	ExitCode        int32
	Reason          string // for people
	Wall            time.Duration
	MemoryPeakBytes uint64
	Box             uint64
	BoxGone         bool // proven by the receipt
	OutFilesLost    bool // by Mayfly, not by the task: another run can give them
}

// OnOutput gets live output: the daemon sends the next piece once it returns. Its error cancels
// the task.
type OnOutput func(stream schema.Stream, data []byte) error

type sink struct{ onOutput OnOutput }

func (s sink) Started(context.Context, schema.OutputSink_started) error { return nil }

func (s sink) Write(_ context.Context, call schema.OutputSink_write) error {
	data, err := call.Args().Data()
	if err != nil {
		return err
	}
	return s.onOutput(call.Args().Stream(), data)
}

// Run runs a task and returns its result. If ctx ends, the task is cancelled, and the result's
// verdict says so.
func (c *Client) Run(ctx context.Context, t Task, onOutput OnOutput) (*Result, error) {
	// The calls themselves outlive ctx, to get the result of a cancelled task.
	calls := context.Background()
	submitted, release := c.mayfly.Submit(calls, func(p schema.Mayfly_submit_Params) error {
		if err := p.SetOutput(schema.OutputSink_ServerToClient(sink{onOutput})); err != nil {
			return err
		}
		if t.Traceparent != "" {
			if err := p.SetTraceparent(t.Traceparent); err != nil {
				return err
			}
		}
		spec, err := p.NewSpec()
		if err != nil {
			return err
		}
		return t.put(spec)
	})
	defer release()
	answer, err := submitted.Struct()
	if err != nil {
		return nil, err
	}
	if err := refusal(answer.Error()); err != nil {
		return nil, err
	}
	task := answer.Task()
	defer func() {
		_, release := task.Close(calls, nil)
		release()
	}()

	waited, release := task.Wait(calls, nil)
	defer release()
	select {
	case <-waited.Done():
	case <-ctx.Done():
		_, release := task.Cancel(calls, nil)
		defer release()
	}
	done, err := waited.Struct()
	if err != nil {
		return nil, err
	}
	if err := refusal(done.Error()); err != nil {
		return nil, err
	}
	return resultFrom(done.Result())
}

func resultFrom(r schema.TaskResult, err error) (*Result, error) {
	if err != nil {
		return nil, err
	}
	reason, err := r.Reason()
	if err != nil {
		return nil, err
	}
	usage, err := r.Usage()
	if err != nil {
		return nil, err
	}
	receipt, err := r.Receipt()
	if err != nil {
		return nil, err
	}
	return &Result{
		Verdict:         r.Verdict(),
		ExitCode:        r.ExitCode(),
		Reason:          reason,
		Wall:            time.Duration(usage.WallNs()),
		MemoryPeakBytes: usage.MemoryPeakBytes(),
		Box:             receipt.Box(),
		BoxGone:         receipt.Complete(),
		OutFilesLost:    r.OutFilesLost(),
	}, nil
}
