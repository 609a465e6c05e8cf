/* The only program of the image without a shell: prints a line and ends. */
#include <unistd.h>

int main(void) {
    static const char line[] = "hello from an image without a shell\n";
    return write(1, line, sizeof line - 1) == (ssize_t)(sizeof line - 1) ? 0 : 1;
}
