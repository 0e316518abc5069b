// Contexts that nothing needs: made and destroyed through the broker, five of them, and nothing else.
#include <gpu_broker.h>

#include <stdio.h>

int main(void)
{
    struct gpu_broker_connection *broker = NULL;
    int result = gpu_broker_connect(NULL, "protos", &broker);

    for (int i = 0; result >= 0 && i < 5; i++) {
        struct gpu_broker_context *context = NULL;

        if ((result = gpu_broker_context_create(broker, &context)) >= 0)
            gpu_broker_context_destroy(context);
    }
    if (result < 0)
        fprintf(stderr, "protos: %s\n", gpu_broker_last_error());
    gpu_broker_close(broker);
    return result < 0;
}
