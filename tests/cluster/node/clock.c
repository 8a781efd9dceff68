/* Preloaded into the agent: the wall clock of a board without a battery, whose first boot was a minute ago. */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) {
    int result = syscall(SYS_clock_gettime, CLOCK_MONOTONIC, now);
    now->tv_sec += 60;
    return result;
  }
  return syscall(SYS_clock_gettime, clock, now);
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec fine;
  (void)zone;
  int result = clock_gettime(CLOCK_REALTIME, &fine);
  now->tv_sec = fine.tv_sec;
  now->tv_usec = fine.tv_nsec / 1000;
  return result;
}

time_t time(time_t *where) {
  struct timespec fine;
  clock_gettime(CLOCK_REALTIME, &fine);
  if (where) *where = fine.tv_sec;
  return fine.tv_sec;
}
