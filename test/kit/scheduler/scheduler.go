// Package scheduler is a test client that behaves as Iglu's scheduler does. [Run] sends one job.
package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
)

const (
	// pollInterval is how long the scheduler waits between two of its health checks.
	pollInterval = 2 * time.Second
	// messageTimeout limits the wait for the next message.
	messageTimeout = 2 * time.Minute
)

// Port is the port of a builder to which the scheduler connects.
const Port = "3000"

// Run sends a job to a builder as Iglu's scheduler does. It polls up to 5 times until the builder is healthy,
// opens the WebSocket, sends the job in one text frame, and returns every message. The close code says
// whether the job succeeded.
func Run(ctx context.Context, host, job string) (messages []map[string]any, closeCode int, err error) {
	address := net.JoinHostPort(host, Port)
	for attempt := 1; !answersHealthy(ctx, address); attempt++ {
		if attempt == 5 {
			return nil, 0, errors.New("the builder is not healthy after 5 attempts")
		}
		time.Sleep(pollInterval)
	}
	conn, _, err := websocket.DefaultDialer.DialContext(ctx, "ws://"+address+"/api/v1/build", nil)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	if err := conn.WriteMessage(websocket.TextMessage, []byte(job)); err != nil {
		return nil, 0, err
	}
	for {
		conn.SetReadDeadline(time.Now().Add(messageTimeout))
		kind, data, err := conn.ReadMessage()
		if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
			return messages, closed.Code, nil
		}
		var message map[string]any
		if err == nil {
			err = json.Unmarshal(data, &message)
		}
		if err != nil || kind != websocket.TextMessage {
			return messages, 0, fmt.Errorf("message %.300s of kind %d: %w", data, kind, err)
		}
		messages = append(messages, message)
	}
}

func answersHealthy(ctx context.Context, address string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/api/v1/healthcheck", nil)
	if err != nil {
		return false
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}
