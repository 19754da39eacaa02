// The relay every Go programmer writes: io.Copy both ways. On Linux it splices by itself.
// Built and run by arus-bench where `go` is installed.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
)

func half(to, from *net.TCPConn, done chan<- struct{}) {
	io.Copy(to, from)
	to.CloseWrite()
	done <- struct{}{}
}

func relay(client *net.TCPConn, upstream string) {
	defer client.Close()
	dialled, err := net.Dial("tcp", upstream)
	if err != nil {
		return
	}
	defer dialled.Close()
	backend := dialled.(*net.TCPConn)
	done := make(chan struct{}, 2)
	go half(backend, client, done)
	go half(client, backend, done)
	<-done
	<-done
}

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("listening", listener.Addr())
	for {
		client, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go relay(client.(*net.TCPConn), os.Args[2])
	}
}
