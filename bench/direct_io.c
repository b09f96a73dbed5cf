// SPDX-License-Identifier: Apache-2.0
// direct_io DEVICE DEPTH BLOCK_BYTES SECONDS: random reads past the page cache, DEPTH at a time, as JSON. The kernel
// initiator's side of bench/iser.py: one thread per command under way, each with a buffer of its own.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static int device;
static size_t block_bytes;
static uint64_t places;
static double end_s;
static atomic_long done;
static atomic_int failed;

static double now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec + at.tv_nsec / 1e9;
}

static void *reader(void *seed)
{
	unsigned int state = (unsigned int)(uintptr_t)seed;
	void *buffer = NULL;
	if (posix_memalign(&buffer, 4096, block_bytes))
		return NULL;
	while (now() < end_s && !failed) {
		off_t at = (off_t)((uint64_t)rand_r(&state) % places * block_bytes);
		if (pread(device, buffer, block_bytes, at) != (ssize_t)block_bytes)
			failed = 1;
		else
			done++;
	}
	free(buffer);
	return NULL;
}

int main(int count, char **words)
{
	if (count != 5)
		return 2;
	int depth = atoi(words[2]);
	block_bytes = (size_t)atol(words[3]);
	uint64_t size = 0;
	device = open(words[1], O_RDONLY | O_DIRECT);
	if (device < 0 || ioctl(device, BLKGETSIZE64, &size) || size < block_bytes || depth < 1 || depth > 128)
		return 1;
	places = size / block_bytes;
	double begin = now();
	end_s = begin + atof(words[4]);
	pthread_t threads[128];
	for (long i = 0; i < depth; i++)
		if (pthread_create(&threads[i], NULL, reader, (void *)(i + 1)))
			return 1;
	for (int i = 0; i < depth; i++)
		pthread_join(threads[i], NULL);
	double seconds = now() - begin;
	printf("{\"commands\": %ld, \"seconds\": %.3f, \"iops\": %.1f}\n", (long)done, seconds, done / seconds);
	return failed;
}
