/*
 * Shortens a program's measurements to a fiftieth: loaded into one that ends each of them by alarm().
 */
#include <stddef.h>
#include <sys/time.h>

unsigned int alarm(unsigned int seconds)
{
	struct itimerval window = {.it_value = {.tv_usec = seconds * 20000}};

	return setitimer(ITIMER_REAL, &window, NULL) == 0 ? 0 : 1;
}
