package load

import (
	"encoding/binary"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A server of HTTP/2 may refuse a request that it has not processed. Clients send it again by
// themselves, which would hide it; here it is counted.
func TestNothingIsSentAgain(t *testing.T) {
	t.Parallel()
	for _, protocol := range []Protocol{HTTP2, GRPC, Stream} {
		t.Run(string(protocol), func(t *testing.T) {
			t.Parallel()
			server := refuse(t)
			run, err := Start(
				t.Context(), Plan{URL: server.address, Rate: 100, For: 100 * time.Millisecond, Protocol: protocol})
			if err != nil {
				t.Fatal(err)
			}
			run.Wait()
			asked, refused := int(server.asked.Load()), int(server.refused.Load())
			if protocol == GRPC {
				asked -= refused // gRPC cannot be kept from it
			}
			want := Counts{{Error: "connection"}: refused, {Status: 200}: asked - refused}
			if diff := cmp.Diff(want, Count(run.Samples())); diff != "" || refused == 0 {
				t.Errorf("(-want, +got)\n%s", diff)
			}
		})
	}
}

// Frames of HTTP/2, RFC 9113 section 6.
const (
	frameData, frameHeaders, frameReset, frameSettings = 0, 1, 3, 4
	flagEndStream, flagAck, flagEndHeaders             = 1, 1, 4
)

// refuser is a server of HTTP/2 that refuses the first request of each connection and answers the
// others.
type refuser struct {
	address        string
	asked, refused atomic.Int64
}

func refuse(t *testing.T) *refuser {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	r := &refuser{address: "http://" + listener.Addr().String() + "/"}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go r.serve(conn)
		}
	}()
	return r
}

func (r *refuser) serve(conn net.Conn) {
	defer conn.Close()
	send := func(kind, flags byte, stream uint32, payload string) {
		frame := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
		frame = binary.BigEndian.AppendUint32(append(frame, flags), stream)
		_, _ = conn.Write(append(frame, payload...))
	}
	preface := make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	if _, err := io.ReadFull(conn, preface); err != nil {
		return
	}
	send(frameSettings, 0, 0, "")
	for head := make([]byte, 9); ; {
		if _, err := io.ReadFull(conn, head); err != nil {
			return
		}
		length, kind, flags, stream := binary.BigEndian.Uint32(head)>>8, head[3], head[4],
			binary.BigEndian.Uint32(head[5:])
		if _, err := io.CopyN(io.Discard, conn, int64(length)); err != nil {
			return
		}
		switch {
		case kind == frameSettings && flags&flagAck == 0:
			send(frameSettings, flagAck, 0, "")
		case kind == frameHeaders && stream == 1:
			r.asked.Add(1)
			r.refused.Add(1)
			send(frameReset, 0, stream, "\x00\x00\x00\x07") // REFUSED_STREAM
		case kind == frameHeaders:
			r.asked.Add(1)
			// HPACK, RFC 7541: the indexed ":status: 200", "content-type" by its index,
			// "grpc-status" by its name.
			send(frameHeaders, flagEndHeaders, stream, "\x88\x0f\x10\x10application/grpc")
			send(frameData, 0, stream, "\x00\x00\x00\x00\x00") // an empty message
			send(frameHeaders, flagEndStream|flagEndHeaders, stream, "\x00\x0bgrpc-status\x010")
		}
	}
}
