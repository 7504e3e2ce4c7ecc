// A paid call with Go's net/http: the key from the environment, the answer on standard output.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
)

func main() {
	body := strings.NewReader(`{"messages": [{"role": "user", "content": "Hello!"}]}`)
	request, err := http.NewRequest("POST", os.Getenv("PS_API_URL")+"/api/hub/agents/chat", body)
	if err != nil {
		log.Fatal(err)
	}
	request.Header.Set("X-API-Key", os.Getenv("PS_API_KEY"))
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf(`{"status": %d, "body": %s}`, answer.StatusCode, text)
}
