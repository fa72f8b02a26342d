#define _GNU_SOURCE
#include <sys/socket.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <unistd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sched.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <signal.h>
static void pin(int c){cpu_set_t s;CPU_ZERO(&s);CPU_SET(c,&s);sched_setaffinity(0,sizeof s,&s);}
static double cpu(){struct timespec t;clock_gettime(CLOCK_THREAD_CPUTIME_ID,&t);return t.tv_sec*1e9+t.tv_nsec;}
int main(int argc,char**argv){int n=200,bytes=argc>1?atoi(argv[1]):5200,rounds=argc>2?atoi(argv[2]):3000,gap=argc>3?atoi(argv[3]):400;
 int l=socket(AF_INET,SOCK_STREAM,0);struct sockaddr_in a={.sin_family=AF_INET,.sin_addr.s_addr=htonl(INADDR_LOOPBACK)};bind(l,(void*)&a,sizeof a);socklen_t z=sizeof a;getsockname(l,(void*)&a,&z);listen(l,1000);
 pid_t p=fork();
 if(!p){pin(1);int e=epoll_create1(0);for(int i=0;i<n;i++){int s=socket(AF_INET,SOCK_STREAM,0);connect(s,(void*)&a,sizeof a);struct epoll_event v={.events=EPOLLIN|EPOLLET,.data.fd=s};fcntl(s,F_SETFL,O_NONBLOCK);epoll_ctl(e,EPOLL_CTL_ADD,s,&v);}
  static char b[65536];struct epoll_event v[256];for(;;){int k=epoll_wait(e,v,256,-1);for(int i=0;i<k;i++)for(;;){ssize_t r=recv(v[i].data.fd,b,65536,0);if(r==0)_exit(0);if(r<65536)break;}}}
 pin(0);int s[200];int one=1;for(int i=0;i<n;i++){s[i]=accept(l,0,0);setsockopt(s[i],6,TCP_NODELAY,&one,4);}
 char*b=malloc(bytes);memset(b,'x',bytes);sleep(1);
 double c=cpu();for(int r=0;r<rounds;r++){for(int i=0;i<n;i++)if(send(s[i],b,bytes,MSG_NOSIGNAL)!=bytes)printf("short\n");usleep(gap);}
 c=cpu()-c;printf("%d bytes: %.0f ns a send\n",bytes,c/rounds/n);kill(p,9);waitpid(p,0,0);}
