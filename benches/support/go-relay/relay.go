// The gateway's job as it is usually written in Go: net/http reads the form's head, asks for the link, and posts the form
// to COS while the file comes in. The file's length follows from the request's Content-Length: nothing stands after the
// file but the form's last boundary.
package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"mime"
	"net/http"
	"net/textproto"
	"os"
	"strings"
	"time"
)

// Bytes of the buffers on both sides, as of the Node relay's streams.
const buffer = 256 << 10

// Bytes of a form before its file's content.
const maxHead = 64 << 10

var (
	wechat = os.Getenv("WECHAT")
	token  string
	client http.Client
)

type link struct {
	URL           string `json:"url"`
	Token         string `json:"token"`
	Authorization string `json:"authorization"`
	FileID        string `json:"file_id"`
	CosFileID     string `json:"cos_file_id"`
}

type stored struct {
	FileID string `json:"file_id"`
	Path   string `json:"path"`
}

func main() {
	transport := &http.Transport{
		MaxIdleConns: 512, MaxIdleConnsPerHost: 256, IdleConnTimeout: 90 * time.Second,
		WriteBufferSize: buffer, ReadBufferSize: 4 << 10, DisableCompression: true,
	}
	if file := os.Getenv("CA"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			log.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	client.Transport = transport
	var granted struct {
		AccessToken string `json:"access_token"`
	}
	asked := map[string]string{"grant_type": "client_credential", "appid": "wx", "secret": "s"}
	if err := post(wechat+"/cgi-bin/stable_token", asked, &granted); err != nil {
		log.Fatal(err)
	}
	token = granted.AccessToken
	server := http.Server{Addr: "127.0.0.1:" + os.Getenv("PORT"), Handler: http.HandlerFunc(serve)}
	log.Fatal(server.ListenAndServe())
}

func serve(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	file, err := upload(r)
	status := http.StatusCreated
	var reply any = file
	if err != nil {
		status, reply = http.StatusBadGateway, map[string]string{"error": err.Error()}
	}
	body, _ := json.Marshal(reply)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(body)
	log.Printf("%s %s %d %s", r.Method, r.URL.Path, status, time.Since(began))
}

// Stores the request's file.
func upload(r *http.Request) (*stored, error) {
	_, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || parameters["boundary"] == "" || r.ContentLength < 0 {
		return nil, fmt.Errorf("a form of known length is needed")
	}
	last := "\r\n--" + parameters["boundary"] + "--\r\n"
	body := bufio.NewReaderSize(r.Body, buffer)
	contentType, read, err := head(body)
	if err != nil {
		return nil, err
	}
	length := r.ContentLength - read - int64(len(last))
	if length < 0 {
		return nil, io.ErrUnexpectedEOF
	}
	path := "uploads/" + random() + ".jpg"
	var link link
	asked := map[string]string{"env": "bench", "path": path}
	if err := post(wechat+"/tcb/uploadfile?access_token="+token, asked, &link); err != nil {
		return nil, err
	}
	if err := send(&link, path, contentType, io.LimitReader(body, length), length); err != nil {
		return nil, err
	}
	rest := make([]byte, len(last))
	if _, err := io.ReadFull(body, rest); err != nil || string(rest) != last {
		return nil, fmt.Errorf("the form does not end where its length says")
	}
	return &stored{link.FileID, path}, nil
}

// Reads a form up to its file's content: the file's type, and how many bytes were read.
func head(body *bufio.Reader) (contentType string, read int64, err error) {
	for isFile := false; ; {
		line, err := body.ReadString('\n')
		if read += int64(len(line)); err != nil || read > maxHead {
			return "", read, fmt.Errorf("the form has no file")
		}
		name, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		switch textproto.CanonicalMIMEHeaderKey(name) {
		case "Content-Disposition":
			_, parameters, _ := mime.ParseMediaType(value)
			_, isFile = parameters["filename"]
		case "Content-Type":
			contentType = strings.TrimSpace(value)
		case "":
			if isFile {
				return contentType, read, nil
			}
		}
	}
}

// Posts the file to COS.
func send(link *link, path, contentType string, file io.Reader, length int64) error {
	boundary := "relay-" + random()
	var head bytes.Buffer
	for _, field := range [][2]string{
		{"key", path}, {"Signature", link.Authorization}, {"x-cos-security-token", link.Token},
		{"x-cos-meta-fileid", link.CosFileID}, {"Content-Type", contentType},
	} {
		fmt.Fprintf(&head, "--%s\r\nContent-Disposition: form-data; name=\"%s\"\r\n\r\n%s\r\n", boundary, field[0], field[1])
	}
	fmt.Fprintf(&head, "--%s\r\nContent-Disposition: form-data; name=\"file\"; filename=\"file\"\r\n"+
		"Content-Type: application/octet-stream\r\n\r\n", boundary)
	tail := "\r\n--" + boundary + "--\r\n"
	total := int64(head.Len()) + length + int64(len(tail))
	request, err := http.NewRequest("POST", link.URL, io.MultiReader(&head, file, strings.NewReader(tail)))
	if err != nil {
		return err
	}
	request.ContentLength = total
	request.Header.Set("Content-Type", "multipart/form-data; boundary="+boundary)
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	io.Copy(io.Discard, response.Body)
	if response.StatusCode != http.StatusNoContent {
		return fmt.Errorf("COS answered %s", response.Status)
	}
	return nil
}

// Posts JSON, and reads JSON.
func post(url string, asked, reply any) error {
	body, err := json.Marshal(asked)
	if err != nil {
		return err
	}
	response, err := client.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return json.NewDecoder(response.Body).Decode(reply)
}

func random() string {
	var bytes [16]byte
	rand.Read(bytes[:])
	return hex.EncodeToString(bytes[:])
}
