// The usual Go code: the form is written through a pipe, so that the request has no Content-Length.
package main

import (
	"fmt"
	"io"
	"log"
	"mime/multipart"
	"net/http"
	"os"
)

func main() {
	body, pipe := io.Pipe()
	writer := multipart.NewWriter(pipe)
	go func() {
		file, err := os.Open("photo.png")
		if err != nil {
			log.Fatal(err)
		}
		writer.WriteField("dir", "reports")
		part, err := writer.CreateFormFile("file", "photo.png")
		if err != nil {
			return // There is no connection.
		}
		if _, err := io.Copy(part, file); err != nil {
			return // The gateway has answered already.
		}
		writer.Close()
		pipe.Close()
	}()
	request, _ := http.NewRequest("POST", "https://files.example.com/v1/files", body)
	request.Header.Set("Content-Type", writer.FormDataContentType())
	request.Header.Set("Authorization", "Bearer "+os.Getenv("GATEWAY_KEY"))
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusCreated {
		answer, _ := io.ReadAll(reply.Body)
		log.Fatal(reply.Status, ": ", string(answer))
	}
	fmt.Println(reply.Header.Get("Location"))
}
